"""The plots of a ranking: who takes how much, how few take most, when, whose, and what is new."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from sprue.proof import plots, svg
from sprue.usage import words
from sprue.usage.totals import COMPUTE, MEASURES, Ranked, Total, added

if TYPE_CHECKING:
    from sprue.usage.report import RankReport

SHOWN = 12  # capabilities, tenants or needs that a plot shows
STACKED = 4  # capabilities that are told apart over time; then the rest, and what is unknown

_HEIGHT, _LINE, _CELL = 260.0, 30.0, 26.0
_NAMES = 150.0  # of the width, for names
_REST = "all others"


def ranking(report: RankReport) -> str:
    """For each capability a bar of each measure: its share of the whole."""
    rows = [(words.named(one.name), one.total) for one in report.capabilities[:SHOWN]]
    more = report.capabilities[SHOWN:]
    rows += [(f"({len(more):,} more)", added(one.total for one in more))] if more else []
    rows += [(words.UNKNOWN, report.unknown)] if report.unknown.requests else []
    known = measures(report)
    top = max(total.share(report.whole, m) for _, total in rows for m in known)
    x = svg.scale((0, top), (_NAMES, svg.WIDTH - 44))
    parts = []
    for i, (name, total) in enumerate(rows):
        parts += _bars(name, total, report.whole, known, 8 + _LINE * i, x)
    told = "; ".join(f"{name}: {words.percent(report.of(total))}" for name, total in rows[:5])
    return svg.drawing(12 + _LINE * len(rows), "Shares of capabilities", told, parts)


def _bars(
    name: str, total: Total, whole: Total, known: Sequence[str], y: float, x: svg.Scale
) -> list[str]:
    parts = [svg.text(_NAMES - 8, y + 14, words.clipped(name, 22), "label", "end")]
    thick = 20.0 / len(known)
    for j, measure in enumerate(known):
        share = total.share(whole, measure)
        place = {"x": x(0), "y": y + thick * j, "width": max(x(share) - x(0), 0.6)}
        hint = f"{name}: {words.percent(share)} of the {measure}"
        color = f"m{MEASURES.index(measure)}"
        parts += [svg.shape("rect", color, hint, **place, height=thick - 1)]
    end = x(max(total.share(whole, measure) for measure in known)) + 5
    return [*parts, svg.text(end, y + 14, words.percent(total.share(whole, known[0])), "tick")]


def measures(report: RankReport) -> list[str]:
    """Those that the log tells, the one that ranks first."""
    known = [m for m in MEASURES if report.whole.by(m) and (m != COMPUTE or report.by == COMPUTE)]
    return sorted(known, key=lambda m: m != report.by)


def covered(report: RankReport) -> str:
    """What the first capabilities take together, over how many there are of them."""
    shares = [report.of(one.total) for one in report.capabilities]
    sums = [0.0, *accumulate(shares)]
    axes = plots.Axes((0, max(len(shares), 1)), (0, 100), _HEIGHT, whole=True)
    parts = axes.frame("capabilities, the largest first", f"of the {report.by}, %")
    known = 100 * sums[-1]
    parts += [svg.line(plots.LEFT, axes.y(known), axes.x(axes.xs[1]), axes.y(known), "rule")]
    places = [(axes.x(i), axes.y(100 * share)) for i, share in enumerate(sums)]
    for a, b in pairwise(places):
        parts += [svg.line(*a, *b, "curve c0")]
    for i, (x, y) in enumerate(places[1:], 1):
        hint = f"the first {i}: {words.percent(sums[i])}"
        parts += [plots.mark(0, x, y, 2.4), svg.shape("circle", "hover", hint, cx=x, cy=y, r=7)]
    told = f"all {len(shares)} known capabilities take {words.percent(sums[-1])}"
    return svg.drawing(_HEIGHT, "What few capabilities cover", told, parts)


def layers(report: RankReport) -> list[tuple[str, list[int]]]:
    """Name and values over time: the first capabilities, the rest and what is unknown."""
    found = [
        (words.named(one.name), report.over_time(one.name)) for one in report.capabilities[:STACKED]
    ]
    rest = [report.over_time(one.name) for one in report.capabilities[STACKED:]]
    if rest:
        found.append((_REST, [sum(values) for values in zip(*rest, strict=True)]))
    if report.unknown.requests:
        found.append((words.UNKNOWN, report.over_time(None)))
    return found


def over_time(report: RankReport) -> str:
    """A bar for every slot of time, stacked of capabilities."""
    stack, starts = layers(report), report.starts
    tops = [sum(values) for values in zip(*(v for _, v in stack), strict=True)]
    top = max(tops, default=0) or 1
    axes = plots.Axes((-0.6, len(starts) - 0.4), (0, 1.06 * top), _HEIGHT, ticks_x=False)
    parts = [svg.text(0, 11, _unit(report), "axis-name")]
    for value in svg.ticks(0, 1.06 * top, count=4):
        parts += [
            svg.line(plots.LEFT, axes.y(value), svg.WIDTH - plots.RIGHT, axes.y(value), "grid")
        ]
        parts += [svg.text(plots.LEFT - 6, axes.y(value) + 4, words.amount(value), "tick", "end")]
    width = max(axes.unit - (1 if axes.unit > 4 else 0.2), 0.4)
    for i, start in enumerate(starts):
        below = 0
        for kind, (name, values) in enumerate(stack):
            if not values[i]:
                continue
            y, foot = axes.y(below + values[i]), axes.y(below)
            hint = f"{words.moment(start, report.unit)}, {name}: {words.amount(values[i])}"
            place = {"x": axes.x(i) - width / 2, "y": y, "width": width, "height": foot - y}
            parts += [svg.shape("rect", f"m{kind}", hint, **place)]
            below += values[i]
    parts += _times(report, axes)
    busiest = words.moment(starts[tops.index(max(tops))], report.unit) if tops else "nothing"
    return svg.drawing(_HEIGHT, "Over time", f"most at {busiest}", parts)


def _unit(report: RankReport) -> str:
    return "FLOPs" if report.by == COMPUTE else report.by


def _times(report: RankReport, axes: plots.Axes) -> list[str]:
    starts = report.starts
    parts = [svg.line(plots.LEFT, axes.bottom, svg.WIDTH - plots.RIGHT, axes.bottom, "axis")]
    every = max(1, -(-len(starts) // 4))
    for i in range(0, len(starts), every):
        x = max(axes.x(i), plots.LEFT + 20)
        told = words.moment(starts[i], report.unit)
        parts += [svg.text(min(x, svg.WIDTH - 40), axes.bottom + 15, told, "tick", "middle")]
    middle = (plots.LEFT + svg.WIDTH - plots.RIGHT) / 2
    return [*parts, svg.text(middle, axes.bottom + 31, "UTC", "axis-name", "middle")]


def whose(report: RankReport) -> str:
    """What share each tenant's requests of a capability are of all that is asked by the tenant."""
    some = report.tenants[:SHOWN]
    names: list[str | None] = [one.name for one in report.capabilities[:6]]
    names += [None] if report.unknown.requests else []
    width, top = (svg.WIDTH - _NAMES - 4) / max(len(names), 1), 44.0
    parts = []
    for j, name in enumerate(names):
        at = _NAMES + width * (j + 0.5)
        told = words.clipped(words.named(name), max(6, int(width / 6)))
        parts += [svg.text(at, top - 8 - 14 * (j % 2), told, "tick", "middle")]
    for i, tenant in enumerate(some):
        parts += _cells(report, tenant, names, top + _CELL * i, width)
    height = top + _CELL * len(some) + 6
    told = f"{len(some)} tenants by {len(names)} capabilities"
    return svg.drawing(height, "What each tenant asks for", told, parts)


def _cells(
    report: RankReport, tenant: Ranked, names: Sequence[str | None], y: float, width: float
) -> list[str]:
    whose = words.named(tenant.name)
    parts = [svg.text(_NAMES - 8, y + 17, words.clipped(whose, 22), "label", "end")]
    inside = {one.name: one.total for one in tenant.inside}
    for j, name in enumerate(names):
        share = inside.get(name, Total()).share(tenant.total, report.by)
        hint = f"{whose}, {words.named(name)}: {words.percent(share)}"
        x = _NAMES + width * j
        parts += [plots.cell(x, y, width, _CELL, share, hint)]
        kind = plots.cell_text(share)
        parts += [svg.text(x + width / 2, y + 17, f"{100 * share:.0f}", kind, "middle")]
    return parts


def news(report: RankReport) -> str:
    """A bar for each new need: its requests, and its words."""
    some = report.found[:SHOWN]
    counts = [report.requests_of(need) for need in some]
    x = svg.scale((0, max(counts)), (8, svg.WIDTH - 60))
    parts = []
    for i, (need, count) in enumerate(zip(some, counts, strict=True)):
        y = 4 + 38.0 * i
        told = words.plain(", ".join(need.words)) or "(no words)"
        hint = f"{told}: {count:,} requests"
        place = {"x": x(0), "y": y + 18, "width": max(x(count) - x(0), 0.6), "height": 12}
        parts += [svg.text(8, y + 12, words.clipped(told, 62), "label")]
        parts += [svg.shape("rect", "bar outside", hint, **place)]
        parts += [svg.text(x(count) + 5, y + 28, f"{count:,}", "tick")]
    told = f"{len(some)} needs, the largest of {max(counts):,} requests"
    return svg.drawing(8 + 38.0 * len(some), "New needs", told, parts)
