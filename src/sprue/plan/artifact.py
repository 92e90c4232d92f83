"""What an artifact says of itself: config.json, sprue.json and recipe.yaml."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from math import prod
from typing import Any

from sprue import __version__, runtime
from sprue.models import Source, Writer
from sprue.plan.ledger import Record
from sprue.plan.recipe import Recipe
from sprue.weights import kernels

_LIBRARIES = ("torch", "transformers", "safetensors", "numpy", "scipy")


def finish(
    writer: Writer,
    source: Source,
    recipe: Recipe,
    records: Mapping[str, Record],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """Add everything beside the weights, whereupon the folder appears; the content of sprue.json.

    Args:
        writer: holds all tensors.
        source: the original.
        recipe: as it was carried out.
        records: module name -> what came of it.
        data: what sprue.json says of the calibration.

    Raises:
        ResourceError: the disk is full.
    """
    told = contents(source, recipe, records, writer.nbytes, data)
    seal(writer, source, records, told, {"recipe.yaml": recipe.to_yaml()})
    return told


def seal(
    writer: Writer,
    source: Source,
    records: Mapping[str, Record],
    told: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Add config.json, sprue.json with `told`, and `texts` by name, whereupon the folder appears.

    Raises:
        ResourceError: the disk is full.
    """
    writer.finish(_config(source, records), told, source.companions(), texts)


def contents(
    source: Source,
    recipe: Recipe,
    records: Mapping[str, Record],
    nbytes: int,
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of sprue.json, but for the hashes of the files.

    Args:
        nbytes: bytes of all tensors of the result; the others as for `finish`.
    """
    told = facts(source, records, nbytes, data)
    return told | {"recipe": recipe.as_dict(), "seed": recipe.seed}


def facts(
    source: Source, records: Mapping[str, Record], nbytes: int, data: Mapping[str, Any]
) -> dict[str, Any]:
    """The same, whatever was done to the matrices."""
    outer = (source.family.embedding, source.family.head)
    linears = [record for name, record in records.items() if name not in outer]
    weights = sum(prod(source.shape(name)) for name in source.entries)
    return {
        "sprue": __version__,
        "original": {
            "name": source.name,
            "sha256": source.fingerprint(),
            "bytes": source.nbytes,
        },
        "versions": _versions(),
        "data": dict(data),
        "tensors": {name: _entry(record) for name, record in records.items()},
        "bytes": nbytes,
        "bits_per_weight": {
            "linears": sum(r.bits for r in linears) / max(sum(r.weights for r in linears), 1),
            "file": 8 * nbytes / weights,
        },
        "fallbacks": _fallbacks(),
        "verdict": None,
    }


def _config(source: Source, records: Mapping[str, Record]) -> dict[str, Any]:
    config = {key: value for key, value in source.raw.items() if key != "auto_map"}
    if not (config.get("dtype") or config.get("torch_dtype")):
        stored = next(iter(source.entries))
        config["dtype"] = str(source.dtype(stored)).removeprefix("torch.")
    config["tie_word_embeddings"] = source.tied
    layouts = {name: record.layout for name, record in records.items()}
    config["quantization_config"] = runtime.quantization_config(layouts)
    return config


def _entry(record: Record) -> dict[str, Any]:
    return {
        "bits": record.bits,
        "weights": record.weights,
        "bits_per_weight": record.bits / record.weights,
        "error": record.error,
        "grid": record.choice.grid,
    }


def _fallbacks() -> list[str]:
    if kernels.library() is None:
        return ["the C kernels were not built: numpy coded and torch decoded the trellis"]
    return []


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
