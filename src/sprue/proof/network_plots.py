"""The plots of a report of a network: what was kept, what it costs, what was tried, what left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sprue.proof import plots, svg
from sprue.proof.form import asked, percent
from sprue.proof.intervals import Estimate
from sprue.proof.scores import Kept

_ROW, _NAME = 38.0, 124.0
_HEIGHT = 290.0
_GROUP, _GROUP_NAME, _GROUP_COUNT = 20.0, 216.0, 86.0
_DIGIT = 7.4  # width of one in a label, in the widest of fonts

_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Cost:
    """What is left of a cost.

    Attributes:
        name: of it.
        ratio: result over original; without width where it is exact.
        allowed: the most that was allowed, where that is not met.
    """

    name: str
    ratio: Estimate
    allowed: float | None = None


def left(costs: Sequence[Cost]) -> str:
    """Bars, as shares of the original's, with intervals where there are any."""
    most = max([1.0, *(max(c.ratio.high, c.ratio.value) for c in costs)]) * 1.04
    x = svg.scale((0, most), (_NAME, svg.WIDTH - 58))
    bottom = 8 + _ROW * len(costs)
    parts = []
    for value in svg.ticks(0, most):
        parts += [svg.line(x(value), 4, x(value), bottom, "grid")]
        parts += [svg.text(x(value), bottom + 15, f"{100 * value:.0f}%", "tick", "middle")]
    for i, cost in enumerate(costs):
        parts += _bar(cost, x, 8 + _ROW * i)
    parts += [svg.line(x(1.0), 2, x(1.0), bottom, "rule")]
    told = "; ".join(f"{c.name} {100 * c.ratio.value:.1f}%" for c in costs)
    return svg.drawing(bottom + 24, "What is left of the original's costs", told, parts)


def _bar(cost: Cost, x: svg.Scale, y: float) -> list[str]:
    shown = f"{100 * cost.ratio.value:.1f}%"
    words = f"{cost.name}: {shown} of the original's"
    width = x(cost.ratio.value) - x(0)
    parts = [
        svg.text(_NAME - 10, y + 20, cost.name, "label", "end"),
        svg.text(svg.WIDTH - 2, y + 20, shown, "strong", "end"),
        svg.shape("rect", "bar", words, x=x(0), y=y + 6, width=width, height=18),
    ]
    if cost.ratio.high > cost.ratio.low:
        parts += [svg.line(x(cost.ratio.low), y + 15, x(cost.ratio.high), y + 15, "mean")]
    if cost.allowed is not None:
        hint = f"{cost.name}: {asked(cost.allowed)} was asked for"
        parts += [
            svg.shape("rect", "bound", hint, x=x(cost.allowed) - 1.5, y=y + 2, width=3, height=26)
        ]
    return parts


def scores(found: Sequence[Kept], keep: float | None) -> str:
    """What was kept by every metric, with intervals and lower bounds; the margin on the first."""
    ends = [1.0, *(e for k in found for e in (k.kept.low, k.kept.high, k.kept.value, k.at_least))]
    low, high = (f([*ends, 1.0 if keep is None else keep]) for f in (min, max))
    pad = max(0.06 * (high - low), 2e-4)
    x = svg.scale((low - pad, high + pad), (8, svg.WIDTH - 8))
    bottom = 12 + 46.0 * len(found)
    parts = []
    for value in svg.ticks(low - pad, high + pad):
        parts += [svg.line(x(value), 8, x(value), bottom, "grid")]
        parts += [svg.text(x(value), bottom + 14, f"{100 * value:.6g}%", "tick", "middle")]
    for i, kept in enumerate(found):
        parts += _score(kept, x, 20 + 46.0 * i)
    if keep is not None:
        parts += [svg.line(x(keep), 25, x(keep), 51, "rule")]
    told = "; ".join(f"{k.name} {_interval(k)}" for k in found)
    return svg.drawing(bottom + 22, "What was kept", told, parts)


def _score(kept: Kept, x: svg.Scale, y: float) -> list[str]:
    low, high, middle = x(kept.kept.low), x(kept.kept.high), y + 18
    bound = x(kept.at_least) - 1.5
    return [
        svg.text(8, y, kept.name if len(kept.name) <= 17 else f"{kept.name[:16]}…", "label"),
        svg.text(svg.WIDTH - 8, y, _interval(kept), "tick", "end"),
        *(
            svg.line(a, middle - reach, b, middle + reach, "whisker result")
            for a, b, reach in ((low, high, 0), (low, low, 4), (high, high, 4))
        ),
        svg.shape("circle", "point result", cx=x(kept.kept.value), cy=middle, r=4.5),
        svg.shape("rect", "bound", x=bound, y=middle - 9, width=3, height=18),
    ]


def _interval(kept: Kept) -> str:
    low, high = percent(kept.kept.low), percent(kept.kept.high)
    return f"{percent(kept.kept.value)} ({low} to {high}), at least {percent(kept.at_least)}"


def tried(
    trials: Sequence[Mapping[str, Any]],
    keep: float | None,
    chosen: str | None,
    kinds: Sequence[str],
    floor: float | None = None,
) -> str:
    """Every trial by latency and quality; the chosen one ringed.

    Args:
        trials: fields of `degating.trials.Trial`.
        keep: share of the quality that was asked for.
        chosen: file of the result.
        kinds: precisions; color and shape of a mark are those of its place among them.
        floor: least share that is shown; None: all.
    """
    shown = [t for t in trials if floor is None or t["kept"] >= floor]
    low, high = (f([t["kept"] for t in shown] + [1.0, keep or 1.0]) for f in (min, max))
    pad = 0.06 * (high - low) + 0.002
    fast = max([1.0, *(t["latency"] for t in shown)])
    axes = plots.Axes((0, 104 * fast), (100 * (low - pad), 100 * (high + pad)), _HEIGHT)
    parts = axes.frame("latency, % of the original's", "kept in the search, %")
    taken: list[_Box] = []
    if keep is not None:
        y = axes.y(100 * keep)
        parts += [svg.line(plots.LEFT, y, svg.WIDTH - plots.RIGHT, y, "rule")]
        taken += [(plots.LEFT, y - 1, svg.WIDTH, y + 1)]
    places = [(axes.x(100 * t["latency"]), axes.y(100 * t["kept"])) for t in shown]
    radii = [3 + 3.5 * min(1.0, t["share"]) for t in shown]
    for trial, (x, y), r in zip(shown, places, radii, strict=True):
        parts += [plots.mark(kinds.index(trial["precision"]), x, y, r)]
        if trial["file"] == chosen:
            r += 5
            parts += [svg.shape("circle", "hollow", cx=x, cy=y, r=r)]
        taken += [(x - r, y - r, x + r, y + r)]
    order = sorted(range(len(shown)), key=lambda i: shown[i]["file"] != chosen)
    parts += _shares([shown[i] for i in order], [places[i] for i in order], axes, taken)
    parts += [
        svg.shape("circle", "hover", _hint(trial), cx=x, cy=y, r=8)
        for trial, (x, y) in zip(shown, places, strict=True)
    ]
    words = f"{len(shown)} files, kept from {100 * low:.1f}% to {100 * high:.1f}%"
    return svg.drawing(axes.height, "What was tried", words, parts)


def _shares(
    trials: Sequence[Mapping[str, Any]],
    places: Sequence[tuple[float, float]],
    axes: plots.Axes,
    taken: list[_Box],
) -> list[str]:
    """The share of the FLOPs beside each mark that has room for it; the first ones come first."""
    parts = []
    page = (plots.LEFT + 2, 14.0, svg.WIDTH - 1, axes.bottom - 2)
    for trial, (x, y) in zip(trials, places, strict=True):
        words = f"{100 * trial['share']:.0f}"
        width = _DIGIT * len(words)
        starts = ((x + 13, y + 4), (x - 13 - width, y + 4), (x - width / 2, y - 12))
        for a, b in (*starts, (x - width / 2, y + 21)):
            box = (a, b - 9, a + width, b + 1)
            if _inside(box, page) and not any(_meet(box, other) for other in taken):
                taken += [box]
                parts += [svg.text(a, b, words, "tick")]
                break
    return parts


def _inside(box: _Box, page: _Box) -> bool:
    return box[0] >= page[0] and box[1] >= page[1] and box[2] <= page[2] and box[3] <= page[3]


def _meet(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _hint(trial: Mapping[str, Any]) -> str:
    spared = f", {trial['spared']} layers in float32" if trial["spared"] else ""
    spared += ", HardSwish" if trial.get("hard") else ""
    trained = f", trained {trial['tuned'] / 60:.1f} min" if trial["tuned"] else ""
    return (
        f"{trial['precision']}, {100 * trial['share']:.1f}% of the FLOPs{spared}{trained}: latency "
        f"{100 * trial['latency']:.1f}%, size {100 * trial['size']:.1f}%, kept "
        f"{100 * trial['kept']:.2f}%"
    )


def widths(cut: Mapping[str, Sequence[int]]) -> str:
    """Of every group of channels, heads or neurons how many are left.

    Args:
        cut: layer that reads a group -> (units before, units left).
    """
    x = svg.scale((0, 1), (_GROUP_NAME, svg.WIDTH - _GROUP_COUNT))
    height, whole = _GROUP - 6, x(1) - x(0)
    parts = []
    for i, (name, (before, after)) in enumerate(cut.items()):
        y = 6 + _GROUP * i
        some, words = whole * after / before, f"{name}: {after} of {before}"
        parts += [
            svg.text(_GROUP_NAME - 8, y + 14, _short(name), "tick", "end"),
            svg.shape("rect", "short", words, x=x(0), y=y + 3, width=whole, height=height),
            svg.shape("rect", "bar", words, x=x(0), y=y + 3, width=some, height=height),
            svg.text(svg.WIDTH - 2, y + 14, f"{after}/{before}", "tick", "end"),
        ]
    told = "; ".join(f"{n} {a} of {b}" for n, (b, a) in cut.items())
    return svg.drawing(12 + _GROUP * len(cut), "What is left of each group", told, parts)


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"…{name[-(most - 1) :]}"
