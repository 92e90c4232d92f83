"""The plots of a network's report: what is left of its costs, and what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sprue.proof import plots, svg
from sprue.proof.intervals import Estimate

_ROW, _NAME = 38.0, 116.0
_HEIGHT = 290.0


def left(costs: Sequence[tuple[str, Estimate]]) -> str:
    """Bars, as shares of the original's, with intervals where there are any."""
    most = max([1.0, *(e.high for _, e in costs)]) * 1.04
    x = svg.scale((0, most), (_NAME, svg.WIDTH - 52))
    bottom = 8 + _ROW * len(costs)
    parts = []
    for value in svg.ticks(0, most):
        parts += [svg.line(x(value), 4, x(value), bottom, "grid")]
        parts += [svg.text(x(value), bottom + 15, f"{100 * value:.0f}%", "tick", "middle")]
    parts += [svg.line(x(1.0), 2, x(1.0), bottom, "rule")]
    for i, (name, cost) in enumerate(costs):
        y = 8 + _ROW * i
        words = f"{name}: {100 * cost.value:.1f}% of the original's"
        parts += [svg.text(_NAME - 10, y + 20, name, "label", "end")]
        width = x(cost.value) - x(0)
        parts += [svg.shape("rect", "bar", words, x=x(0), y=y + 6, width=width, height=18)]
        if cost.high > cost.low:
            parts += [svg.line(x(cost.low), y + 15, x(cost.high), y + 15, "mean")]
        end = max(x(cost.high), x(cost.value))
        parts += [svg.text(end + 7, y + 20, f"{100 * cost.value:.1f}%", "strong")]
    told = "; ".join(f"{name} {100 * cost.value:.1f}%" for name, cost in costs)
    return svg.drawing(bottom + 24, "What is left of the original's costs", told, parts)


def tried(
    trials: Sequence[Mapping[str, Any]],
    keep: float | None,
    chosen: str | None,
    kinds: Sequence[str],
) -> str:
    """Every trial by latency and quality; the chosen one ringed."""
    low = min([keep or 1.0, *(t["kept"] for t in trials)])
    high = max([1.0, *(t["kept"] for t in trials)])
    pad = 0.06 * (high - low) + 0.002
    fast = max([1.0, *(t["latency"] for t in trials)])
    axes = plots.Axes((0, 104 * fast), (100 * (low - pad), 100 * (high + pad)), _HEIGHT)
    parts = axes.frame("latency, % of the original's", "kept in the search, %")
    if keep is not None:
        y = axes.y(100 * keep)
        parts += [svg.line(plots.LEFT, y, svg.WIDTH - plots.RIGHT, y, "rule")]
    for trial in trials:
        x, y = axes.x(100 * trial["latency"]), axes.y(100 * trial["kept"])
        hint = (
            f"{trial['precision']}, {100 * trial['share']:.1f}% of the FLOPs"
            + (f", trained {trial['tuned'] / 60:.1f} min" if trial["tuned"] else "")
            + f": latency {100 * trial['latency']:.1f}%, size {100 * trial['size']:.1f}%, kept "
            f"{100 * trial['kept']:.2f}%"
        )
        kind = kinds.index(trial["precision"])
        parts += [plots.mark(kind, x, y, 5.0)]
        if trial["file"] == chosen:
            parts += [svg.shape("circle", "hollow", cx=x, cy=y, r=10)]
        parts += [svg.shape("circle", "hover", hint, cx=x, cy=y, r=8)]
    return svg.drawing(
        axes.height,
        "What was tried",
        f"{len(trials)} files, kept from {100 * low:.1f}% to {100 * high:.1f}%",
        parts,
    )


def widths(cut: Mapping[str, Sequence[int]]) -> str:
    """Of every group of channels, heads or neurons the share that is left."""
    names = list(cut)
    row = 22.0 if len(names) <= 30 else 14.0
    x = svg.scale((0, 1), (_NAME + 60, svg.WIDTH - 60))
    parts = []
    for i, name in enumerate(names):
        before, after = cut[name]
        y = 6 + row * i
        words = f"{name}: {after} of {before}"
        if row > 14:
            parts += [svg.text(_NAME + 52, y + 14, _short(name), "tick", "end")]
        parts += [
            svg.shape("rect", "short", x=x(0), y=y + 3, width=x(1) - x(0), height=row - 6),
            svg.shape(
                "rect",
                "bar",
                words,
                x=x(0),
                y=y + 3,
                width=x(after / before) - x(0),
                height=row - 6,
            ),
        ]
        if row > 14:
            parts += [svg.text(x(1) + 6, y + 14, f"{after}/{before}", "tick")]
    told = "; ".join(f"{n} {a} of {b}" for n, (b, a) in cut.items())
    return svg.drawing(12 + row * len(names), "What is left of each group", told, parts)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"…{name[-(most - 1) :]}"
