"""The plots of the report: what was kept, where it was lost, and where the bits are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from sprue.proof import layers, svg
from sprue.proof.intervals import Estimate
from sprue.proof.layers import Matrix
from sprue.proof.quality import Sample, Verdict

LEFT, RIGHT = 46.0, 12.0  # margins of a plot with an axis on the left
_POINTS = 1500  # of a file at most in a scatter plot: more would only be ink
KINDS = 6  # of marks that can be told apart


def margin(kept: Estimate, verdict: Verdict) -> str:
    """What was kept, with its interval, on a line with the margin that was asked for."""
    edges = [kept.low, kept.high, verdict.kept_at_least, verdict.keep or kept.low, 1.0]
    pad = max(0.08 * (max(edges) - min(edges)), 2e-4)
    x = svg.scale((min(edges) - pad, max(edges) + pad), (8, svg.WIDTH - 8))
    y, parts = 46.0, []
    if verdict.keep is not None:
        at = x(verdict.keep)
        parts += [
            svg.shape("rect", "short", x=8, y=24, width=at - 8, height=44),
            svg.shape("rect", "enough", x=at, y=24, width=svg.WIDTH - 8 - at, height=44),
            svg.line(at, 18, at, 74, "rule"),
            _beside(at, 13, f"asked for: {_tick_percent(verdict.keep)}", "label"),
        ]
    parts += [svg.line(8, 68, svg.WIDTH - 8, 68, "axis")]
    for value in svg.ticks(min(edges) - pad, max(edges) + pad):
        parts += [svg.line(x(value), 68, x(value), 72, "axis")]
        parts += [svg.text(x(value), 86, _tick_percent(value), "tick", "middle")]
    parts += whisker(x, y, kept, "result")
    parts += [
        svg.shape("rect", "bound", x=x(verdict.kept_at_least) - 1.5, y=y - 11, width=3, height=22)
    ]
    return svg.drawing(
        94,
        "Quality kept",
        f"{_percent(kept.value)}, 95% interval {_percent(kept.low)} to {_percent(kept.high)}; at "
        f"least {_percent(verdict.kept_at_least)} with 95% confidence"
        + (f"; asked for: {_percent(verdict.keep)}" if verdict.keep is not None else ""),
        parts,
    )


def excess(files: Mapping[str, Estimate], overall: Estimate) -> str:
    """Perplexity above the original's, for each file and for their mean."""
    rows = [*files.items(), ("mean of the files", overall)] if len(files) > 1 else [*files.items()]
    ends = [0.0, *(e for _, r in rows for e in (r.low, r.high))]
    low, high = _padded(min(ends), max(ends))
    x = svg.scale((low, high), (8, svg.WIDTH - 8))
    bottom = 12 + 42.0 * len(rows)
    parts = [
        svg.text(x(value), bottom + 13, _tick_percent(value), "tick", "middle")
        for value in svg.ticks(low, high)
    ]
    for i, (name, estimate) in enumerate(rows):
        y = 16 + 42.0 * i
        strong = "label strong" if i == len(files) else "label"
        shown = (
            f"{_percent(estimate.value)}  ({_percent(estimate.low)} to {_percent(estimate.high)})"
        )
        parts += [svg.text(8, y + 3, _clipped(name, 34), strong)]
        parts += [svg.text(svg.WIDTH - 8, y + 3, shown, "tick", "end")]
        parts += [
            svg.line(x(v), y + 10, x(v), y + 28, "rule" if v == 0 else "grid")
            for v in sorted(svg.ticks(low, high), key=lambda v: v == 0)
        ]
        parts += whisker(x, y + 19, estimate, "rule-mark" if i == len(files) else "result")
    return svg.drawing(
        bottom + 34,
        "Perplexity above the original's",
        "; ".join(f"{n}: {_percent(r.value)}" for n, r in rows),
        [*parts, svg.text(svg.WIDTH / 2, bottom + 30, "excess perplexity", "axis-name", "middle")],
    )


def losses(samples: Sequence[Sample]) -> str:
    """For each window: how much worse the result is, over how hard the window is."""
    xs = [float(v) for s in samples for v in s.original]
    ys = [float(v) for s in samples for v in s.difference]
    spread = max(max(map(abs, ys)), 1e-6)
    x_low, x_high = _padded(min(xs), max(xs))
    plot = Axes((x_low, x_high), _padded(min(0, min(ys)), max(0.2 * spread, max(ys))), 250)
    parts = plot.frame(
        "negative log likelihood of the original, nats per token",
        "result minus original, nats per token",
    )
    parts += [svg.line(LEFT, plot.y(0), svg.WIDTH - RIGHT, plot.y(0), "rule")]
    for i, sample in enumerate(samples):
        stride = math.ceil(len(sample.original) / _POINTS)
        pairs = zip(sample.original[::stride], sample.difference[::stride], strict=True)
        parts += [mark(i, plot.x(float(a)), plot.y(float(d)), 2.6) for a, d in pairs]
    worse = sum(v > 0 for v in ys) / len(ys)
    return svg.drawing(
        plot.height,
        "Where the result is worse, window by window",
        f"{len(ys)} windows; the result is worse in {100 * worse:.0f}% of them; the largest loss "
        f"is {max(ys):.3f} nats per token",
        parts,
    )


def legend_mark(i: int) -> str:
    """The mark of file `i` for a legend."""
    return f'<svg viewBox="0 0 12 12" aria-hidden="true" class="key">{mark(i, 6, 6, 4)}</svg>'


def error_by_layer(found: Sequence[Matrix]) -> str:
    """The relative error that every matrix was stored with, and the mean of each layer."""
    table = layers.by_layer(found)
    means = {layer: layers.mean_error(some) for layer, some in table.items()}
    top = max((m.error for some in table.values() for m in some), default=0.0)
    plot = Axes((min(table) - 0.6, max(table) + 0.6), (0, 1.08 * top or 1.0), 220, whole=True)
    parts = plot.frame("layer", "error, share of tr(W H Wᵀ)")
    for some in table.values():
        parts += [
            svg.shape(
                "circle",
                "dot",
                f"{m.module}: {m.error:.2e}",
                cx=plot.x(float(m.layer or 0)),
                cy=plot.y(m.error),
                r=3,
            )
            for m in some
        ]
    half = min(0.32, 9 / plot.unit)
    parts += [
        svg.line(plot.x(k - half), plot.y(v), plot.x(k + half), plot.y(v), "mean")
        for k, v in means.items()
    ]
    worst = max(means, key=lambda k: means[k])
    return svg.drawing(
        plot.height,
        "Stored error by layer",
        f"{len(table)} layers; the mean is largest in layer {worst} ({means[worst]:.2e}) and "
        f"smallest {min(means.values()):.2e}",
        parts,
    )


def bits_by_layer(found: Sequence[Matrix]) -> str:
    """Bits per weight of every layer, and of what stands outside the layers."""
    table = layers.by_layer(found)
    outside = [m for m in found if m.layer is None]
    bars = {str(layer): layers.mean_bits(some) for layer, some in table.items()}
    bars |= {m.kind: m.bits_per_weight for m in outside}
    plot = Axes((-0.6, len(bars) - 0.4), (0, 1.08 * max(bars.values())), 220, ticks_x=False)
    parts = plot.frame("layer", "bits per weight")
    every = max(1, math.ceil(len(table) / 12))
    width = 0.72 * plot.unit
    for i, (name, value) in enumerate(bars.items()):
        inside = i < len(table)
        parts += [
            svg.shape(
                "rect",
                "bar" if inside else "bar outside",
                f"{'layer ' if inside else ''}{name}: {value:.3f} bits per weight",
                x=plot.x(i) - width / 2,
                y=plot.y(value),
                width=width,
                height=plot.y(0) - plot.y(value),
            )
        ]
        if not inside or i % every == 0:
            # Names outside the layers are longer than a bar is wide: a word to a line.
            parts += [
                svg.text(plot.x(i), plot.bottom + 15 + 12 * row, word, "tick", "middle")
                for row, word in enumerate(name.split("_"))
            ]
    return svg.drawing(
        plot.height,
        "Bits per weight by layer",
        "; ".join(f"{name}: {value:.2f}" for name, value in bars.items()),
        parts,
    )


def error_by_kind(found: Sequence[Matrix]) -> str:
    """The error of every matrix: a row for each kind of linear, a column for each layer."""
    digits = 2 if max(m.error for m in found) < 0.1 else 1
    return heat(
        found,
        "Stored error by kind of linear",
        lambda m: m.error,
        0.0,
        lambda v: f"{100 * v:.{digits}f}",
    )


def bits_by_kind(found: Sequence[Matrix]) -> str:
    """The same for bits per weight."""
    return heat(
        found,
        "Bits per weight by kind of linear",
        lambda m: m.bits_per_weight,
        0.9 * min(m.bits_per_weight for m in found),
        lambda v: f"{v:.2f}",
    )


def zeros_by_kind(found: Sequence[Matrix]) -> str:
    """The same for the share of inputs that count as zero."""
    return heat(
        found,
        "Zeros by kind of linear",
        lambda m: m.zeros or 0.0,
        0.0,
        lambda v: f"{100 * v:.0f}",
    )


def zeros_by_layer(found: Sequence[Matrix]) -> str:
    """The share of every layer's weights that meet a zero, and that of each of its matrices."""
    table = layers.by_layer(found)
    means = {layer: layers.mean_zeros(some) for layer, some in table.items()}
    plot = Axes((min(table) - 0.6, max(table) + 0.6), (0, 1), 220, whole=True)
    parts = plot.frame("layer", "share of zeros")
    for m in (m for some in table.values() for m in some):
        x, y = plot.x(float(m.layer or 0)), plot.y(m.zeros or 0.0)
        hint = f"{m.module}: {100 * (m.zeros or 0.0):.1f}%"
        parts += [svg.shape("circle", "dot", hint, cx=x, cy=y, r=3)]
    half = min(0.32, 9 / plot.unit)
    parts += [
        svg.line(plot.x(k - half), plot.y(v), plot.x(k + half), plot.y(v), "mean")
        for k, v in means.items()
    ]
    most = max(means, key=lambda k: means[k])
    return svg.drawing(
        plot.height,
        "Zeros by layer",
        f"{len(table)} layers; most in layer {most} ({100 * means[most]:.1f}%), least "
        f"{100 * min(means.values()):.1f}%",
        parts,
    )


def zeros_curve(curve: Sequence[Mapping[str, float]], target: float) -> str:
    """Predicted divergence by the share of zeros, shared out and even; both axes as they are.

    Args:
        curve: rows of "zeros" (a share), "shared_out" and "even" (nats per token).
        target: the share that was asked for.
    """
    near = [row for row in curve if row["zeros"] <= min(target + 0.2, 0.95)] or list(curve)
    top = max(max(row["even"], row["shared_out"]) for row in near) or 1.0
    plot = Axes((0, near[-1]["zeros"]), (0, 1.08 * top), 250)
    parts = plot.frame("share of zeros", "predicted divergence, nats per token")
    at = plot.x(target)
    parts += [svg.line(at, 22, at, plot.bottom, "rule")]
    for i, (key, kind) in enumerate(
        (("shared_out", "whisker result"), ("even", "whisker rule-mark"))
    ):
        points = [(plot.x(row["zeros"]), plot.y(row[key]), row) for row in near]
        parts += [svg.line(a[0], a[1], b[0], b[1], kind) for a, b in pairwise(points)]
        parts += [mark(i, x, y, 3) for x, y, _ in points]
    words = "; ".join(
        f"{100 * row['zeros']:.0f}%: {row['shared_out']:.4f}, even {row['even']:.4f}"
        for row in near
    )
    return svg.drawing(plot.height, "What zeros cost", words, parts)


def heat(
    found: Sequence[Matrix],
    title: str,
    value: Callable[[Matrix], float],
    palest: float,
    form: Callable[[float], str],
) -> str:
    """A cell for every matrix; the ramp goes from `palest` to the largest value."""
    inside = [m for m in found if m.layer is not None]
    kinds = list(dict.fromkeys(m.kind for m in inside))
    columns = {layer: i for i, layer in enumerate(sorted({m.layer or 0 for m in inside}))}
    left = 14 + 6.2 * max(len(_clipped(kind, 22)) for kind in kinds)
    width, height = (svg.WIDTH - left - 4) / len(columns), 26.0
    ramp = svg.scale((palest, max(value(m) for m in inside)), (0, 1))
    parts = [
        svg.text(left - 8, 8 + height * (row + 0.5) + 4, _clipped(kind, 22), "label", "end")
        for row, kind in enumerate(kinds)
    ]
    for m in inside:
        x, y = left + width * columns[m.layer or 0], 8 + height * kinds.index(m.kind)
        share = ramp(value(m))
        hint = f"{m.module}: {value(m):.3e}"
        parts += [cell(x, y, width, height, share, hint)]
        if width >= 30:
            shown, kind = form(value(m)), cell_text(share)
            parts += [svg.text(x + width / 2, y + height / 2 + 4, shown, kind, "middle")]
    bottom = 8 + height * len(kinds)
    every = max(1, math.ceil(len(columns) / 12))
    parts += [
        svg.text(left + width * (i + 0.5), bottom + 15, str(layer), "tick", "middle")
        for layer, i in columns.items()
        if i % every == 0
    ]
    parts += [svg.text((left + svg.WIDTH) / 2, bottom + 31, "layer", "axis-name", "middle")]
    worst = max(inside, key=value)
    return svg.drawing(
        bottom + 34,
        title,
        f"{len(kinds)} kinds in {len(columns)} layers; largest in {worst.module} "
        f"({value(worst):.2e})",
        parts,
    )


def cell_text(share: float) -> str:
    """The class of words that stand on a cell of this strength."""
    return "cell-text on" if share > 0.87 else "cell-text mid" if share > 0.6 else "cell-text"


def cell(x: float, y: float, width: float, height: float, share: float, hint: str) -> str:
    """A cell of a heat map; `share` of 0 to 1 is how strong it is."""
    gap = 1.0 if width > 6 else 0.2
    # The fill's opacity carries the value, so that the ramp works on light and on dark paper.
    return svg.shape(
        "rect",
        "cell",
        hint,
        x=x + gap,
        y=y + gap,
        width=width - 2 * gap,
        height=height - 2 * gap,
        **{"fill-opacity": 0.06 + 0.94 * share},
    )


class Axes:
    """A plot with an axis on the left and one below."""

    def __init__(
        self,
        xs: tuple[float, float],
        ys: tuple[float, float],
        height: float,
        whole: bool = False,
        ticks_x: bool = True,
    ) -> None:
        self.xs, self.ys, self.height = xs, ys, height
        self.bottom = height - 36
        self.x = svg.scale(xs, (LEFT, svg.WIDTH - RIGHT))
        self.y = svg.scale(ys, (self.bottom, 22))
        self.unit = self.x(1) - self.x(0)
        self._whole, self._ticks_x = whole, ticks_x

    def frame(self, below: str, beside: str) -> list[str]:
        """Axes, grid and names."""
        parts = [svg.text(0, 11, beside, "axis-name")]
        for value in svg.ticks(*self.ys, count=5):
            y = self.y(value)
            parts += [svg.line(LEFT, y, svg.WIDTH - RIGHT, y, "grid")]
            parts += [svg.text(LEFT - 6, y + 4, _plain(value), "tick", "end")]
        parts += [svg.line(LEFT, self.bottom, svg.WIDTH - RIGHT, self.bottom, "axis")]
        middle = (LEFT + svg.WIDTH - RIGHT) / 2
        parts += [svg.text(middle, self.bottom + 31, below, "axis-name", "middle")]
        if self._ticks_x:
            found = svg.ticks(*self.xs, count=8)
            shown = [v for v in found if not self._whole or v == round(v)]
            parts += [
                svg.text(self.x(v), self.bottom + 15, _plain(v), "tick", "middle") for v in shown
            ]
        return parts


def whisker(x: svg.Scale, y: float, estimate: Estimate, kind: str) -> list[str]:
    """A figure and its interval on a line across."""
    low, high = x(estimate.low), x(estimate.high)
    return [
        svg.line(low, y, high, y, f"whisker {kind}"),
        svg.line(low, y - 4, low, y + 4, f"whisker {kind}"),
        svg.line(high, y - 4, high, y + 4, f"whisker {kind}"),
        svg.shape("circle", f"point {kind}", cx=x(estimate.value), cy=y, r=4.5),
    ]


def mark(i: int, x: float, y: float, r: float) -> str:
    """A mark whose shape and color tell file `i` from the others."""
    kind = f"mark m{i % KINDS}"
    corners = {
        1: [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)],
        2: [(x, y - 1.2 * r), (x + 1.2 * r, y + r), (x - 1.2 * r, y + r)],
        3: [(x, y - 1.4 * r), (x + 1.4 * r, y), (x, y + 1.4 * r), (x - 1.4 * r, y)],
        4: [(x, y + 1.2 * r), (x + 1.2 * r, y - r), (x - 1.2 * r, y - r)],
        5: [(x - 1.5 * r, y - 0.5 * r), (x + 1.5 * r, y - 0.5 * r), (x, y + 1.5 * r)],
    }.get(i % KINDS)
    if corners is None:
        return svg.shape("circle", kind, cx=x, cy=y, r=r * 1.1)
    return svg.polygon(corners, kind)


def _beside(x: float, y: float, words: str, kind: str) -> str:
    """Words at x, on the side of it that has room."""
    if x > svg.WIDTH / 2:
        return svg.text(x + 4, y, words, kind, "end")
    return svg.text(x - 4, y, words, kind)


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = max(0.06 * (high - low), 1e-6)
    return low - pad, high + pad


def _percent(share: float) -> str:
    """With as many digits as a share near 0 or near 1 needs."""
    rest = min(abs(share), abs(1 - share))
    digits = 1 if rest >= 0.1 else 2 if rest >= 0.001 or rest == 0 else 3
    shown = f"{100 * share:.{digits}f}".replace("-", "−")
    return (shown.rstrip("0").rstrip(".") if rest == 0 else shown) + "%"


def _tick_percent(share: float) -> str:
    return _plain(100 * share) + "%"


def _plain(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _clipped(name: str, most: int) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
