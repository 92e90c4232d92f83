"""The plots of specialists and fleets: what is kept, how it was learned, where the compute goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sprue.proof import plots, svg
from sprue.proof.form import percent
from sprue.proof.intervals import Estimate
from sprue.usage import words

if TYPE_CHECKING:
    from sprue.fleet.replay_report import Point, ReplayReport, Worse

_HEIGHT, _ROW, _BAR = 270.0, 42.0, 30.0
_NAME, _VALUE = 142.0, 62.0  # of the width, for names and figures of bars
_STEPS = 300  # of a training that are drawn: more would only be ink
_HUGE = 1e30  # an interval of two observations can be wider than any plot

_LEFT_TO_FULL = "left_to_the_full_model"  # of the parts, the one that is no step of the sum
_PARTS = {"prompts_of_unsplit_requests": "unsplit prompts"}


@dataclass(frozen=True)
class Row:
    """A ratio of perplexities that is drawn.

    Attributes:
        name: of what was read.
        ratio: to the full model's.
        at_most: its upper bound, one-sided.
        strong: whether it is the one that matters.
    """

    name: str
    ratio: Estimate
    at_most: float
    strong: bool = False


def figure(
    title: str, caption: str, drawing: str, legend: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """As the template "figure.html" takes it; `legend` is name -> mark."""
    keys = [{"mark": Markup(mark), "name": name} for name, mark in (legend or {}).items()]
    return {"title": title, "caption": caption, "svg": Markup(drawing), "legend": keys}


def key(*parts: str) -> str:
    """The mark of a legend, 12 by 12."""
    return f'<svg viewBox="0 0 12 12" aria-hidden="true" class="key">{"".join(parts)}</svg>'


def line_key(kind: str) -> str:
    """The mark of a line."""
    return key(svg.line(0, 6, 12, 6, kind))


def upright_key(kind: str) -> str:
    """The mark of a line that stands upright."""
    return key(svg.line(6, 0, 6, 12, kind))


def times(ratio: float) -> str:
    """A ratio, near 1 or far from it."""
    if ratio >= 1e6:
        return f"{ratio:.2g}"
    digits = 4 if ratio < 2 else 2 if ratio < 100 else 1 if ratio < 1000 else 0
    return f"{ratio:,.{digits}f}"


def between(ratio: Estimate) -> str:
    """A ratio with its interval."""
    return f"{times(ratio.value)} ({times(ratio.low)} to {times(ratio.high)})"


def share(value: float) -> str:
    """A share that can be below zero."""
    return f"{round(100 * value, 1) + 0.0:.1f}%".replace("-", "−")


def _signed(value: float) -> str:
    shown = share(value)
    return f"+{shown}" if round(100 * value, 1) > 0 else shown


def duration(seconds: float) -> str:
    """A time, in milliseconds where it is short."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 2}f} ms"


def ratios(title: str, rows: Sequence[Row], allowed: float, below: str) -> str:
    """Ratios with their intervals and upper bounds, on a logarithmic axis.

    Args:
        title: of the plot.
        rows: one or more.
        allowed: the most that a ratio may be.
        below: name of the axis.
    """
    ends = [1.0, allowed, *(e for r in rows for e in (r.ratio.low, r.ratio.high, r.at_most))]
    low, high = _log(min(ends)), _log(max(ends))
    pad = max(0.06 * (high - low), 1e-4)
    place = svg.scale((low - pad, high + pad), (8, svg.WIDTH - 8))

    def x(value: float) -> float:
        return place(_log(value))

    bottom = 12 + _ROW * len(rows)
    shown = _ticks(math.exp(low - pad), math.exp(high + pad))
    parts = [_tick(x(v), bottom + 13, f"{v:g}") for v in shown]
    lines = [(v, "grid") for v in shown if v != 1] + [(1.0, "rule"), (allowed, "rule dashed")]
    for i, row in enumerate(rows):
        y = 16 + _ROW * i
        kind = "rule-mark" if row.strong else "result"
        parts += [svg.text(8, y + 3, words.clipped(row.name, 30), "strong" * row.strong)]
        parts += [svg.text(svg.WIDTH - 8, y + 3, between(row.ratio), "tick", "end")]
        parts += [svg.line(x(v), y + 10, x(v), y + 28, line) for v, line in lines]
        parts += plots.whisker(x, y + 19, row.ratio, kind)
        parts += [svg.shape("rect", "bound", x=x(row.at_most) - 1.5, y=y + 11, width=3, height=16)]
        place_of = {"x": 8, "y": y + 8, "width": svg.WIDTH - 16, "height": 22}
        parts += [svg.shape("rect", "hover", _told(row.name, row.ratio, row.at_most), **place_of)]
    parts += [svg.text(svg.WIDTH / 2, bottom + 30, below, "axis-name", "middle")]
    told = "; ".join(f"{row.name}: {between(row.ratio)}" for row in rows)
    return svg.drawing(bottom + 34, title, f"{told}; {times(allowed)} is allowed", parts)


def _log(value: float) -> float:
    return math.log(min(max(value, 1 / _HUGE), _HUGE))


def _ticks(low: float, high: float) -> list[float]:
    """Round values for a logarithmic axis."""
    if high < 3 * low:
        return svg.ticks(low, high)
    first, last = math.log10(low), math.log10(high)
    every, steps = max(1, round((last - first) / 8)), (1, 2, 5) if last - first < 3.6 else (1,)
    powers = range(every * math.floor(first / every), math.ceil(last), every)  # 1 is among them
    return [v for k in powers for v in (m * 10.0**k for m in steps) if low <= v <= high]


def _tick(x: float, y: float, shown: str) -> str:
    """Words below a place, moved in where they would stand out of the drawing."""
    half = 3.4 * len(shown)
    return svg.text(min(max(x, half), svg.WIDTH - half), y, shown, "tick", "middle")


def _told(name: str, ratio: Estimate, at_most: float) -> str:
    return f"{name}: {between(ratio)}; at least {percent(1 / at_most)} kept"


def kept(looks: Sequence[Mapping[str, float]], keep: float) -> str:
    """What was kept on text held back while a specialist learned.

    Args:
        looks: one or more, with "kept", "seconds" and "step".
        keep: what was asked for.
    """
    below, xs = _over(looks)
    ys = [100 * look["kept"] for look in looks]
    axes = plots.Axes((0, xs[-1] or 1), _padded([*ys, 100 * keep, 100]), _HEIGHT)
    parts = axes.frame(below, "kept on text held back, %")
    parts += [_across(axes, 100, "rule"), _across(axes, 100 * keep, "rule dashed")]
    places = [(axes.x(a), axes.y(b)) for a, b in zip(xs, ys, strict=True)]
    parts += _path(places, "curve c0")
    best = max(range(len(looks)), key=lambda i: ys[i])
    parts += [svg.shape("circle", "ring c0", cx=places[best][0], cy=places[best][1], r=7)]
    for look, (x, y) in zip(looks, places, strict=True):
        hint = f"{look['step']:,.0f} steps, {look['seconds']:,.0f} s: {percent(look['kept'])}"
        parts += [plots.mark(0, x, y, 2.6), svg.shape("circle", "hover", hint, cx=x, cy=y, r=8)]
    told = f"from {ys[0]:.2f}% to {ys[best]:.2f}%; {100 * keep:.6g}% was asked for"
    return svg.drawing(_HEIGHT, "What was kept while it learned", told, parts)


def _over(looks: Sequence[Mapping[str, float]]) -> tuple[str, list[float]]:
    """The unit, and how far in it every look was."""
    most = max(look["seconds"] for look in looks)
    if most <= 0:
        return "steps", [float(look["step"]) for look in looks]
    unit, size = ("minutes", 60) if most >= 120 else ("seconds", 1)
    return f"{unit} of training", [look["seconds"] / size for look in looks]


def losses(found: Sequence[float]) -> str:
    """The loss of every step, and its mean over a twentieth of them."""
    size = math.ceil(len(found) / _STEPS)
    means = [_mean(found[i : i + size]) for i in range(0, len(found), size)]
    xs = [min(len(found), size * i + size / 2) for i in range(len(means))]
    axes = plots.Axes((0, 1.03 * len(found)), _padded(means), _HEIGHT, whole=True)
    parts = axes.frame("step", "loss, nats per token")
    parts += _path([(axes.x(a), axes.y(b)) for a, b in zip(xs, means, strict=True)], "light")
    over = max(1, len(means) // 20)
    smooth = [_mean(means[max(0, i - over) : i + over + 1]) for i in range(len(means))]
    parts += _path([(axes.x(a), axes.y(b)) for a, b in zip(xs, smooth, strict=True)], "curve c0")
    told = f"{len(found):,} steps, from {smooth[0]:.3f} to {smooth[-1]:.3f}"
    return svg.drawing(_HEIGHT, "Loss of the training", told, parts)


def curve(points: Sequence[Point], used: tuple[float, Worse], allowed: float) -> str:
    """Perplexity over compute saved, from no need handed over to all of them.

    Args:
        points: one or more.
        used: what was saved, and how much worse it was, with the reserves of the fleet.
        allowed: the most that the ratio may be.
    """
    every = [*((p.saved, p.worse.ratio) for p in points), (used[0], used[1].ratio)]
    xs = [100 * saved for saved, _ in every]
    ends = [1.0, allowed, *(e for _, r in every for e in (r.low, r.high))]
    axes = plots.Axes(_padded(xs), _padded([min(e, _HUGE) for e in ends]), _HEIGHT)
    parts = axes.frame("FLOPs saved, %", "perplexity, fleet over full model")
    parts += [_across(axes, 1, "rule"), _across(axes, allowed, "rule dashed")]
    around = [(p.saved, p.worse.ratio.low) for p in points]
    around += [(p.saved, p.worse.ratio.high) for p in reversed(points)]
    corners = [(axes.x(100 * a), axes.y(min(b, _HUGE))) for a, b in around]
    places = [(axes.x(100 * p.saved), axes.y(p.worse.ratio.value)) for p in points]
    parts += [svg.polygon(corners, "band m0"), *_path(places, "curve c0")]
    for p, (x, y) in zip(points, places, strict=True):
        hint = f"{share(p.share)} handed over, {_told(*_named(p.saved, p.worse))}"
        parts += [plots.mark(0, x, y, 2.4), svg.shape("circle", "hover", hint, cx=x, cy=y, r=7)]
    x, y = axes.x(xs[-1]), axes.y(used[1].ratio.value)
    hint = f"used: {_told(*_named(*used))}"
    parts += [plots.mark(1, x, y, 3.5), svg.shape("circle", "ring c1", cx=x, cy=y, r=8)]
    parts += [svg.shape("circle", "hover", hint, cx=x, cy=y, r=9)]
    told = f"used: {share(used[0])} saved at {between(used[1].ratio)}; {times(allowed)} is allowed"
    return svg.drawing(_HEIGHT, "What handing over costs and buys", told, parts)


def _named(saved: float, worse: Worse) -> tuple[str, Estimate, float]:
    return f"{share(saved)} of the FLOPs saved", worse.ratio, worse.at_most


def waterfall(report: ReplayReport) -> str:
    """From the full model's compute to the fleet's, part by part, as shares of the first."""
    steps = {n: v for n, v in report.parts.items() if n != _LEFT_TO_FULL}
    left, fleet = report.parts.get(_LEFT_TO_FULL, 0.0), 1 - report.total.saved
    bars = [("full model alone", "bar outside", 0.0, 1.0, share(1.0))]
    at = 1.0
    for name, value in steps.items():
        kind = "saves" if value > 0 else "costs"
        words_of = _PARTS.get(name, name.replace("_", " "))
        bars.append((words_of, kind, at, at - value, _signed(-value)))
        at -= value
    bars += [
        ("the fleet", "bar", 0.0, fleet, share(fleet)),
        ("left to the full model", "bar outside", 0.0, left, share(left)),
        ("saved", "saves", fleet, 1.0, share(report.total.saved)),
    ]
    ends = [end for _, _, a, b, _ in bars for end in (a, b)]
    x = svg.scale((min(ends), max(ends)), (_NAME, svg.WIDTH - _VALUE))
    bottom, hint = 4 + _BAR * len(bars), "{}: {} of the full model's FLOPs"
    parts = _grid(x, (min(ends), max(ends)), bottom, lambda v: f"{100 * v:.0f}%")
    for i, (name, kind, a, b, shown) in enumerate(bars):
        parts += _bar(name, kind, (x(a), x(b)), 4 + _BAR * i, shown, hint.format(name, shown))
    levels = [b for _, _, _, b, _ in bars[: len(steps) + 1]]
    for i, level in enumerate(levels):
        parts += [svg.line(x(level), 27 + _BAR * i, x(level), 11 + _BAR * (i + 1), "axis")]
    told = "; ".join(f"{name} {shown}" for name, _, _, _, shown in bars)
    return svg.drawing(bottom + 22, "Where the compute goes", told, parts)


def latencies(found: Sequence[tuple[str, float, float]]) -> str:
    """Two bars for every quantile.

    Args:
        found: (its name, seconds of the full model, of the fleet).
    """
    top = max(value for _, *pair in found for value in pair) or 1.0
    x = svg.scale((0, top), (_NAME, svg.WIDTH - _VALUE))
    bars = [
        (f"{name}, {who}", kind, value)
        for name, full, fleet in found
        for who, kind, value in (("full model", "bar outside", full), ("fleet", "bar", fleet))
    ]
    bottom = 4 + _BAR * len(bars)
    parts = _grid(x, (0, top), bottom, lambda v: f"{v:g} s" if top >= 1 else f"{1000 * v:g} ms")
    for i, (name, kind, value) in enumerate(bars):
        shown = duration(value)
        parts += _bar(name, kind, (x(0), x(value)), 4 + _BAR * i, shown, f"{name}: {shown}")
    told = "; ".join(f"{name} {duration(value)}" for name, _, value in bars)
    return svg.drawing(bottom + 22, "Latency", told, parts)


def _bar(
    name: str, kind: str, ends: tuple[float, float], y: float, shown: str, hint: str
) -> list[str]:
    place = {"x": min(ends), "y": y + 7, "width": max(abs(ends[1] - ends[0]), 0.8), "height": 16}
    return [
        svg.text(_NAME - 8, y + 19, name, "label", "end"),
        svg.shape("rect", kind, hint, **place),
        svg.text(svg.WIDTH - 2, y + 19, shown, "tick", "end"),
    ]


def _grid(x: svg.Scale, span: tuple[float, float], bottom: float, form: Any) -> list[str]:
    parts = []
    for value in svg.ticks(*span, count=4):
        parts += [svg.line(x(value), 4, x(value), bottom, "grid")]
        parts += [svg.text(x(value), bottom + 14, form(value), "tick", "middle")]
    return parts


def _across(axes: plots.Axes, value: float, kind: str) -> str:
    y = axes.y(value)
    return svg.line(plots.LEFT, y, svg.WIDTH - plots.RIGHT, y, kind)


def _path(places: Sequence[tuple[float, float]], kind: str) -> list[str]:
    return [svg.line(*a, *b, kind) for a, b in pairwise(places)]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = max(0.06 * (high - low), 1e-4 * abs(high), 1e-9)
    return low - pad, high + pad


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
