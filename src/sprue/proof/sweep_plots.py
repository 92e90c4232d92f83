"""The plots of a sweep: quality over the ratio of zeros, on other tasks, and where zeros are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from sprue.proof import layers, plots, svg
from sprue.proof.point import Curve, Point

_HEIGHT, _CELL = 290.0, 26.0

_Place = tuple[float, float]


def kept(curves: Sequence[Curve], keep: float, seed: int, floor: float = 0.0) -> str:
    """A curve for each task with the band of its intervals; marks at the knee and the margin.

    Args:
        curves: of one family of patterns, a task each.
        keep: the share that the margin stands for.
        seed: of the knees' resamples.
        floor: least share that is shown.
    """
    most = max([1.0, *(p.quality.kept.high for c in curves for p in c.points)])
    top = min(most + 0.02 * (most - floor), 1 + 0.5 * (1 - floor))
    ratios = [100 * point.zeros for curve in curves for point in curve.points]
    axes = plots.Axes((0, max(ratios)), (100 * floor, 100 * top), _HEIGHT)
    parts = axes.frame("zeros among the weights of the linears, %", "quality kept, %")
    line = axes.y(100 * keep)
    parts += [svg.line(plots.LEFT, line, svg.WIDTH - plots.RIGHT, line, "rule")]
    for i, curve in enumerate(curves):
        parts += _band(axes, curve, i, floor, top)
    for i, curve in enumerate(curves):
        parts += _marks(axes, curve, i, keep, seed, (floor, top))
    return svg.drawing(
        axes.height,
        f"Quality kept over the ratio of zeros, {curves[0].family}",
        "; ".join(f"{c.task}: {_words(c, keep)}" for c in curves),
        parts,
    )


def elsewhere(points: Mapping[str, Point]) -> str:
    """What is kept on every task (columns) by zeros that were calibrated on each (rows)."""
    names, left, top = list(points), 130.0, 24.0
    width = (svg.WIDTH - left - 4) / len(names)
    values = {(a, b): points[a].on(b).kept.value for a in names for b in names}
    low, high = min(values.values()), max(values.values())
    ramp = svg.scale((high + 1e-9, low), (0, 1))
    parts = [
        svg.text(left + width * (j + 0.5), 14, _clipped(b), "tick", "middle")
        for j, b in enumerate(names)
    ]
    for i, a in enumerate(names):
        y = top + _CELL * i
        parts += [svg.text(left - 8, y + 17, f"on {_clipped(a)}", "label", "end")]
        for j, b in enumerate(names):
            share = ramp(values[a, b])
            hint = f"calibrated on {a}, measured on {b}: {100 * values[a, b]:.2f}%"
            x = left + width * j
            parts += [plots.cell(x, y, width, _CELL, share, hint)]
            if width >= 40:
                shown = f"{100 * values[a, b]:.1f}"
                kind = plots.cell_text(share)
                parts += [svg.text(x + width / 2, y + 17, shown, kind, "middle")]
    return svg.drawing(
        top + _CELL * len(names) + 6,
        "Quality kept on every task",
        f"least {100 * low:.1f}%, most {100 * high:.1f}%",
        parts,
    )


def where(point: Point) -> str:
    """The ratio of zeros of every linear: a row for each kind, a column for each layer."""
    told = {
        name: {"grid": "raw", "bits": 0, "weights": 1, "error": share}
        for name, share in point.layers.items()
    }
    return plots.heat(
        layers.matrices(told),
        f"Zeros by kind of linear, {point.task}",
        lambda m: m.error,
        0.0,
        lambda v: f"{100 * v:.0f}",
    )


def _band(axes: plots.Axes, curve: Curve, i: int, floor: float, top: float) -> list[str]:
    """The curve and its intervals, from no zeros on, where nothing is lost."""
    rows = [(100 * p.zeros, p.quality.kept) for p in curve.points]
    start = (0.0, 100.0)
    around = [start, *((x, 100 * k.high) for x, k in rows)]
    around += [(x, 100 * k.low) for x, k in reversed(rows)]
    inside = _below(_below(around, 100 * top), -100 * floor, -1)
    band = svg.polygon([(axes.x(x), axes.y(y)) for x, y in inside], f"band m{i % plots.KINDS}")
    path = [start, *((x, 100 * k.value) for x, k in rows)]
    parts = [band]
    for step in pairwise(path):
        ends = _below(_below(step, 100 * top), -100 * floor, -1)[:2]
        if len(ends) == 2:
            (a, b), (c, d) = ends
            kind = f"curve c{i % plots.KINDS}"
            parts += [svg.line(axes.x(a), axes.y(b), axes.x(c), axes.y(d), kind)]
    return parts


def _below(corners: Sequence[_Place], limit: float, sign: int = 1) -> list[_Place]:
    """The part of an outline with sign * y <= limit (Sutherland and Hodgman 1974)."""
    found: list[_Place] = []
    for (a, b), (c, d) in pairwise([*corners, *corners[:1]]):
        if sign * b <= limit:
            found.append((a, b))
        if (sign * b <= limit) != (sign * d <= limit):
            edge = sign * limit
            found.append((a + (c - a) * (edge - b) / (d - b), edge))
    return found


def _marks(
    axes: plots.Axes, curve: Curve, i: int, keep: float, seed: int, span: tuple[float, float]
) -> list[str]:
    """Every point; a ring around the knee, an upright bar at the largest that keeps enough."""
    bend, enough = curve.knee(seed), curve.keeps(keep)
    parts = []
    for point in curve.points:
        q = point.quality.kept
        if not span[0] <= q.value <= span[1]:
            continue
        x, y = axes.x(100 * point.zeros), axes.y(100 * q.value)
        hint = (
            f"{point.task}, {point.pattern}, {100 * point.zeros:.1f}% zeros: kept "
            f"{100 * q.value:.2f}% ({100 * q.low:.2f}% to {100 * q.high:.2f}%)"
        )
        parts += [plots.mark(i, x, y, 2.6), svg.shape("circle", "hover", hint, cx=x, cy=y, r=7)]
        if bend is not None and point.ratio == bend.ratio:
            parts += [svg.shape("circle", f"ring c{i % plots.KINDS}", "knee", cx=x, cy=y, r=7)]
        if point is enough:
            parts += [svg.line(x, y - 12, x, y + 12, f"enough-mark c{i % plots.KINDS}")]
    return parts


def _words(curve: Curve, keep: float) -> str:
    enough = curve.keeps(keep)
    if enough is None:
        return f"no ratio keeps {100 * keep:.4g}%"
    return f"{100 * keep:.4g}% is kept up to {100 * enough.zeros:.4g}% of zeros"


def _clipped(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
