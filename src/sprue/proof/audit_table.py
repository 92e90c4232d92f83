"""What an audit found, as lines of tables."""

from __future__ import annotations

from collections.abc import Sequence

from sprue.proof.form import size
from sprue.structure.findings import DIRECTIONS, INPUTS, UNREAD, Findings, LayerFindings, Option

_FLOAT = 4  # bytes of a weight
_MEGA = 1e6

LAYER_HEADS = (
    *("layer", "kind", "matrix", "spare", "by", "dead weights", "dead in", "dead out"),
    *("repeated in", "repeated out"),
)
TECHNIQUE_HEADS = ("everywhere", "bytes saved", "of all", "MACs saved", "of all", "nats", "")
OPTION_HEADS = ("best first", "technique", "bytes saved", "MACs saved", "nats", "")


def layer_row(layer: LayerFindings) -> tuple[str, ...]:
    """A layer, as LAYER_HEADS say."""
    ways = {
        INPUTS: f"{layer.spare_inputs} of {layer.inputs} inputs",
        DIRECTIONS: f"rank {layer.rank}",
        UNREAD: f"{layer.dead_outputs} of {layer.out} outputs",
    }
    dead, looked = layer.dead_connections, layer.rank is not None or layer.spare > 0
    return (
        layer.name,
        layer.kind,
        f"{layer.out} x {layer.width}",
        share_of(layer.spare / layer.parameters) if looked else "",
        ways.get(layer.spare_kind or "", ""),
        "" if dead is None else share_of(dead / layer.parameters),
        _count(layer.dead_inputs),
        _count(layer.dead_outputs),
        _count(layer.repeated_inputs),
        _count(layer.repeated_outputs),
    )


def technique_rows(found: Findings) -> list[tuple[str, ...]]:
    """Techniques in all layers, as TECHNIQUE_HEADS say."""
    rows: list[tuple[str, ...]] = []
    for one in (found.everywhere(t) for t in found.offered()):
        _, name, saved, macs, nats, spread = option_row(one)
        of_bytes = share_of(max(0.0, one.nbytes) / max(_FLOAT * found.parameters, 1))
        of_macs = share_of(one.macs / max(found.macs, 1))
        rows.append((name, saved, of_bytes, macs, of_macs, nats, spread))
    return rows


def option_row(option: Option) -> tuple[str, ...]:
    """An option, as OPTION_HEADS say."""
    saved = size(option.nbytes) if option.nbytes > 0 else "none"
    macs = f"{option.macs / _MEGA:.3g} M" if option.macs else "none"
    return (
        *(option.layer, option.technique, saved, macs, f"{option.nats:.2e}"),
        f"± {option.spread:.0e}",
    )


def share_of(share: float) -> str:
    """A share in percent, with as many digits as a small one needs."""
    return f"{100 * share:.1f}%" if share >= 0.001 or share == 0 else f"{100 * share:.2g}%"


def _count(count: int | None) -> str:
    return "" if count is None else f"{count}"


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal."""
    lines = [heads, *rows]
    wide = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    shown = ("  ".join(f"{cell:<{wide[i]}}" for i, cell in enumerate(line)) for line in lines)
    return "\n".join(line.rstrip() for line in shown)
