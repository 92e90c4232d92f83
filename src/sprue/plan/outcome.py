"""What a result with experts says of itself: config.json and sprue.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import prod
from typing import Any

from sprue.models import Source, Writer
from sprue.plan import artifact
from sprue.plan.convert import Layer
from sprue.plan.distill import Schedule
from sprue.plan.lesson import Look
from sprue.plan.split import Split, multiplications, parameters


def finish(
    writer: Writer,
    source: Source,
    split: Split,
    layers: Sequence[Layer],
    data: Mapping[str, Any],
    looks: Sequence[Look],
    schedule: Schedule | None,
) -> dict[str, Any]:
    """Add everything beside the weights, whereupon the folder appears; the content of sprue.json.

    Raises:
        ResourceError: the disk is full.
    """
    told = {
        **artifact.origin(source),
        "split": split.as_dict(),
        "seed": split.seed,
        "versions": artifact.versions(),
        "data": dict(data),
        "tensors": {},
        "bytes": writer.nbytes,
        "parameters": _parameters(source, layers),
        "feed_forward": _multiplications(layers),
        "layers": {layer.module: {"load": layer.load, "lost": layer.lost} for layer in layers},
        "distillation": None if schedule is None else _lesson(schedule, looks),
        "fallbacks": [],
        "verdict": None,
    }
    layouts = {layer.module: layer.layout for layer in layers}
    writer.finish(artifact.config(source, {}, layouts), told, source.companions())
    return told


def _parameters(source: Source, layers: Sequence[Layer]) -> dict[str, int]:
    """Those that a token computes with, and all; embedding and head are counted as they are."""
    replaced = tuple(f"{layer.module}." for layer in layers)
    rest = sum(prod(source.shape(n)) for n in source.entries if not n.startswith(replaced))
    counts = [parameters(layer.layout) for layer in layers]
    return {
        "active": rest + sum(active for active, _ in counts),
        "total": rest + sum(total for _, total in counts),
    }


def _multiplications(layers: Sequence[Layer]) -> dict[str, Any]:
    """For a token, in all feed-forward layers; a multiplication and its addition are two FLOPs."""
    counts = [multiplications(layer.layout) for layer in layers]
    now, dense = sum(now for now, _ in counts), sum(dense for _, dense in counts)
    return {"flops": 2 * now, "dense_flops": 2 * dense, "share": now / dense}


def _lesson(schedule: Schedule, looks: Sequence[Look]) -> dict[str, Any]:
    last = looks[-1]
    return {
        "schedule": asdict(schedule),
        "steps": last.step,
        "seconds": None if schedule.seconds is None else last.seconds,
        "kept_on_held_back": last.kept,
    }
