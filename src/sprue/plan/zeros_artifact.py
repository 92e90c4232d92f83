"""What an artifact with thresholds says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from sprue.models import Source, Writer
from sprue.plan import artifact
from sprue.plan.design import matrices
from sprue.plan.ledger import Record
from sprue.plan.zeros import Curves, Level, damage, even, share_out
from sprue.weights import kernels, packed

_DRAWN = tuple(k / 20 for k in range(1, 20))  # shares of zeros of the curve


def finish(
    writer: Writer,
    source: Source,
    records: Mapping[str, Record],
    data: Mapping[str, Any],
    target: float,
    seed: int,
    curves: Curves,
) -> dict[str, Any]:
    """Add everything beside the weights, whereupon the folder appears; the content of sprue.json.

    Args:
        writer: holds all tensors.
        source: the original.
        records: module name -> what came of it.
        data: what sprue.json says of the calibration.
        target: the share of zeros that was asked for.
        seed: of samples and labels.
        curves: what each share would have cost.

    Raises:
        ResourceError: the disk is full.
    """
    told = artifact.facts(source, records, writer.nbytes, data)
    levels = share_out(curves, target)
    told |= {
        "recipe": None,
        "fallbacks": _fallbacks(),
        "seed": seed,
        "tensors": {n: told["tensors"][n] | _entry(r, levels[n]) for n, r in records.items()},
        "activations": {
            "target": target,
            "met": met(records),
            "flops": _flops(source, records),
            "predicted_kl_nats": damage(levels),
            "curve": _curve(curves),
        },
    }
    artifact.seal(writer, source, records, told)
    return told


def _fallbacks() -> list[str]:
    if kernels.library() is None:
        return ["the C kernels were not built: torch gathers columns, which saves less"]
    return []


def met(records: Mapping[str, Record]) -> float:
    """The share of weights that are not read, as measured on the calibration text."""
    skipped = sum(r.weights * r.layout["threshold"]["zeros"] for r in records.values())
    return float(skipped / sum(r.weights for r in records.values()))


def _entry(record: Record, level: Level) -> dict[str, Any]:
    told = record.layout["threshold"]
    return {
        "grid": record.layout["grid"],
        "threshold": told["value"],
        "zeros": told["zeros"],
        "planned": level.share,
    }


def _flops(source: Source, records: Mapping[str, Record]) -> dict[str, int]:
    """Of linears and head for a token, on average over the calibration text."""
    m = matrices(source)
    left = sum(packed.flops(record.layout) for record in records.values())
    return {"original": m.flops, "result": left + 2 * prod(m.head)}


def _curve(curves: Curves) -> list[dict[str, float]]:
    """Predicted divergence by share of zeros, shared out and even."""
    return [
        {
            "zeros": share,
            "shared_out": damage(share_out(curves, share)),
            "even": damage(even(curves, share)),
        }
        for share in _DRAWN
    ]
