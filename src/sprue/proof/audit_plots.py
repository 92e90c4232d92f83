"""The plots of an audit: where the fat lies, what taking it would cost, and the best way down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from sprue.proof import plots, svg
from sprue.structure.findings import (
    BINS,
    DEAD,
    DECADES,
    DIRECTIONS,
    HALF,
    INPUTS,
    INT4,
    INT8,
    QUARTER,
    RANK,
    SPARSE,
    UNREAD,
    Findings,
    LayerFindings,
    Option,
)

_HEIGHT = 260.0
_FLOAT = 4  # bytes of a weight
_LEAST = 1e-9  # nats that are told apart from none
_PRICES = 400  # of the way down
_LOW = 0.05  # the least that an axis of shares reaches up to
_COLORS = {INPUTS: "m0", DIRECTIONS: "m1", UNREAD: "m2"}

# techniques that a scatter plot shows, and the mark of each; what is spare is no point of its own
MARKS = {INT8: 0, INT4: 1, SPARSE: 2, RANK: 3, QUARTER: 4, HALF: 4, DEAD: 5}

Place = tuple[float, float]


def spare(layers: Sequence[LayerFindings]) -> str:
    """For every layer the share of its parameters that is spare, by whichever way saves most."""
    shares = [layer.spare / layer.parameters for layer in layers]
    axes = _axes(layers, shares)
    parts = axes.frame("layer, as they run", "parameters that are spare, %")
    width = 0.76 * axes.unit
    for i, (layer, share) in enumerate(zip(layers, shares, strict=True)):
        hint = f"{layer.name}: {100 * share:.1f}%, {layer.spare_kind or 'nothing'}"
        place = {"x": axes.x(i) - width / 2, "y": axes.y(100 * share), "width": width}
        color = _COLORS[layer.spare_kind or INPUTS]
        parts += [svg.shape("rect", color, hint, **place, height=axes.y(0) - place["y"])]
    most = max(shares, default=0.0)
    return svg.drawing(_HEIGHT, "Spare parameters", f"at most {100 * most:.1f}% of a layer", parts)


def idle(layers: Sequence[LayerFindings]) -> str:
    """For every layer the shares of its connections and channels that are dead or repeated."""
    points = [(i, *point) for i, layer in enumerate(layers) for point in _idle(layer)]
    axes = _axes(layers, [share for _, _, share, _ in points])
    parts = axes.frame("layer, as they run", "of the layer, %")
    for i, kind, share, hint in points:
        x, y = axes.x(i), axes.y(100 * share)
        parts += [plots.mark(kind, x, y, 3), svg.shape("circle", "hover", hint, cx=x, cy=y, r=6)]
    dead = sum(layer.dead_connections or 0 for layer in layers)
    return svg.drawing(_HEIGHT, "Dead and repeated", f"{dead:,} connections are dead", parts)


def _idle(layer: LayerFindings) -> list[tuple[int, float, str]]:
    """Mark, share and words of what is known of a layer."""
    counts = (
        (layer.dead_connections, layer.parameters, "connections are dead"),
        (layer.dead_inputs, layer.inputs, "inputs are dead"),
        (layer.repeated_inputs, layer.inputs, "inputs are repeated"),
    )
    return [
        (kind, count / whole, f"{layer.name}: {count:,} of {whole:,} {words}")
        for kind, (count, whole, words) in enumerate(counts)
        if count is not None
    ]


def worth(found: Findings) -> str:
    """Every option: bytes that it saves, and the damage that is predicted; both logarithmic."""
    options = [o for o in found.options if o.technique in MARKS]
    xs = [math.log10(o.nbytes / (_FLOAT * found.parameters)) for o in options]
    ys = [math.log10(max(o.nats, _LEAST)) for o in options]
    axes = plots.Axes(_around(xs), _around(ys), _HEIGHT, ticks_x=False)
    parts = _log_frame(axes, "saved, share of the network's bytes", "predicted damage, nats")
    for option, x, y in zip(options, xs, ys, strict=True):
        hint = f"{option.layer}, {option.technique}: {option.nbytes:,.0f} bytes, "
        hint += f"{option.nats:.2e} nats"
        at = axes.x(x), axes.y(y)
        parts += [plots.mark(MARKS[option.technique], *at, 2.8)]
        parts += [svg.shape("circle", "hover", hint, cx=at[0], cy=at[1], r=5)]
    best = options[0] if options else None
    told = "nothing is offered" if best is None else f"best: {best.technique} in {best.layer}"
    return svg.drawing(_HEIGHT, "What is saved and what it costs", told, parts)


def contributions(found: Findings) -> str:
    """How many connections contribute how much to what they go into."""
    counts = [sum(layer.contributions[i] for layer in found.layers) for i in range(BINS)]
    low, high = DECADES
    top = 100 * max(counts) / max(sum(counts), 1)
    axes = plots.Axes((low, high), (0, 1.08 * top or 1.0), _HEIGHT, ticks_x=False)
    parts = [*axes.frame("share of the output's root mean square", "of all connections, %")]
    parts += _decades(axes, DECADES)
    width = (high - low) / BINS
    for i, count in enumerate(counts):
        share = 100 * count / max(sum(counts), 1)
        left, up = axes.x(low + i * width), axes.y(share)
        hint = f"from {10 ** (low + i * width):.1e}: {count:,} connections"
        place = {"x": left + 0.5, "y": up, "width": max(0.5, axes.unit * width - 1)}
        parts += [svg.shape("rect", "bar", hint, **place, height=axes.y(0) - up)]
    at = axes.x(min(max(math.log10(found.share), low), high))
    parts += [svg.line(at, 22, at, axes.bottom, "rule")]
    parts += [svg.text(at - 4, 34, "dead", "label", "end")]
    below = sum(layer.dead_connections or 0 for layer in found.layers)
    told = f"{below:,} connections contribute less than {found.share:g}"
    return svg.drawing(_HEIGHT, "Contributions of connections", told, parts)


def way_down(found: Findings) -> str:
    """The damage that is predicted over the bytes that are left, one option for every layer."""
    points = _way(found)
    axes_x = (100 * min(x for x, _ in points), 100.0)
    ys = [math.log10(max(y, _LEAST)) for _, y in points]
    axes = plots.Axes(axes_x, _around(ys), _HEIGHT)
    parts = _log_frame(axes, "bytes that are left, %", "predicted damage, nats", along=False)
    places = [(axes.x(100 * x), axes.y(y)) for (x, _), y in zip(points, ys, strict=True)]
    parts += [svg.line(*a, *b, "curve c0") for a, b in pairwise(places)]
    for place, (left, nats) in zip(places, points, strict=True):
        hint = f"{100 * left:.1f}% of the bytes: {nats:.2e} nats"
        parts += [svg.shape("circle", "hover", hint, cx=place[0], cy=place[1], r=4)]
    least = points[-1]
    told = f"down to {100 * least[0]:.1f}% of the bytes at {least[1]:.2g} nats"
    return svg.drawing(_HEIGHT, "The best way down", told, parts)


def _way(found: Findings) -> list[Place]:
    """(share of bytes left, nats) at falling prices of a byte."""
    whole = _FLOAT * found.parameters
    ends = [o.nats / o.nbytes for o in found.options]
    low = math.log10(max(min(ends, default=1.0), 1e-18)) - 1
    high = math.log10(max(max(ends, default=1.0), 1e-18)) + 1
    points: list[Place] = []
    for i in range(_PRICES + 1):
        price = 10 ** (low + (high - low) * i / _PRICES)
        picked = [_cheapest(layer, price) for layer in found.layers]
        saved = sum(o.nbytes for o in picked if o is not None)
        point = 1 - saved / whole, sum(o.nats for o in picked if o is not None)
        if point not in points:
            points.append(point)
    return points


def _cheapest(layer: LayerFindings, price: float) -> Option | None:
    offered = [o for o in layer.options if o.nbytes > 0]
    best = min(offered, key=lambda o: o.nats - price * o.nbytes, default=None)
    return best if best is not None and best.nats < price * best.nbytes else None


def _axes(layers: Sequence[LayerFindings], shares: Sequence[float]) -> plots.Axes:
    top = min(100.0, 106 * max([_LOW, *shares]))
    return plots.Axes((-0.6, len(layers) - 0.4), (0, top), _HEIGHT, whole=True)


def _log_frame(axes: plots.Axes, below: str, beside: str, along: bool = True) -> list[str]:
    """Axes with powers of ten beside, and below where `along`."""
    parts = [svg.text(0, 11, beside, "axis-name")]
    for power in _powers(axes.ys):
        y = axes.y(power)
        parts += [svg.line(plots.LEFT, y, svg.WIDTH - plots.RIGHT, y, "grid")]
        parts += [svg.text(plots.LEFT - 6, y + 4, _power(power), "tick", "end")]
    parts += [svg.line(plots.LEFT, axes.bottom, svg.WIDTH - plots.RIGHT, axes.bottom, "axis")]
    middle = (plots.LEFT + svg.WIDTH - plots.RIGHT) / 2
    parts += [svg.text(middle, axes.bottom + 31, below, "axis-name", "middle")]
    if along:
        return [*parts, *_decades(axes, axes.xs)]
    ticks = svg.ticks(*axes.xs, count=8)
    return parts + [
        svg.text(axes.x(v), axes.bottom + 15, f"{v:g}", "tick", "middle") for v in ticks
    ]


def _decades(axes: plots.Axes, ends: Place) -> list[str]:
    return [
        svg.text(axes.x(p), axes.bottom + 15, _power(p), "tick", "middle") for p in _powers(ends)
    ]


def _powers(ends: Place) -> list[int]:
    low, high = math.ceil(ends[0]), math.floor(ends[1])
    step = max(1, (high - low) // 7)
    return list(range(low, high + 1, step))


def _power(power: int) -> str:
    """10 to a power, as people write it."""
    if -3 <= power <= 3:
        return f"{10.0**power:g}"
    raised = str(abs(power)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{'⁻' if power < 0 else ''}{raised}"


def _around(values: Sequence[float]) -> Place:
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = max(0.05 * (high - low), 0.3)
    return low - pad, high + pad
