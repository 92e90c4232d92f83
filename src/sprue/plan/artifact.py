"""What an artifact says of itself: config.json, sprue.json and recipe.yaml."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import prod
from typing import Any

from sprue import __version__, runtime
from sprue.models import Source, Writer
from sprue.plan.ledger import Record
from sprue.plan.recipe import Recipe
from sprue.weights import kernels, packed

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
    layouts = {name: record.layout for name, record in records.items()}
    writer.finish(config(source, layouts), told, source.companions(), texts)


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
        **origin(source),
        "versions": versions(),
        "data": dict(data),
        "tensors": {name: _entry(record) for name, record in records.items()},
        "bytes": nbytes,
        "bits_per_weight": {
            "linears": sum(r.bits for r in linears) / max(sum(r.weights for r in linears), 1),
            "file": 8 * nbytes / weights,
        },
        "zeros": _zeros(linears),
        "fallbacks": _fallbacks(),
        "verdict": None,
    }


def origin(source: Source) -> dict[str, Any]:
    """Who made a result, and of what."""
    return {
        "sprue": __version__,
        "original": {
            "name": source.name,
            "sha256": source.fingerprint(),
            "bytes": source.nbytes,
        },
    }


def config(
    source: Source,
    modules: Mapping[str, Mapping[str, Any]],
    experts: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The content of config.json; the layouts are those of `runtime.quantization_config`."""
    told = {key: value for key, value in source.raw.items() if key != "auto_map"}
    if not (told.get("dtype") or told.get("torch_dtype")):
        stored = next(iter(source.entries))
        told["dtype"] = str(source.dtype(stored)).removeprefix("torch.")
    told["tie_word_embeddings"] = source.tied
    told["quantization_config"] = runtime.quantization_config(modules, experts)
    return told


def _zeros(records: Sequence[Record]) -> dict[str, float]:
    """Of packed linears: the share of stored zeros, and operations over those of dense ones."""
    weights = max(sum(record.weights for record in records), 1)
    masked = [record for record in records if "mask" in record.layout]
    zeros = sum(record.weights - int(record.layout["mask"]["kept"]) for record in masked)
    flops = sum(packed.flops(record.layout) for record in records)
    return {"share": zeros / weights, "flops": flops / (2 * weights)}


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


def versions() -> dict[str, str]:
    """Of Python and the libraries that take part."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
