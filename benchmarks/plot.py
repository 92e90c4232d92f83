"""Excess perplexity over size, and over bits a weight, as one SVG: ours beside the peers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

import common

WIDTH, PANEL, HEIGHT = 1120.0, 500.0, 470.0
LEFT, TOP, BOTTOM, GAP = 62.0, 64.0, 58.0, 58.0
LOW, HIGH = 0.05, 100.0  # percent; what lies below is drawn on the lower edge

OURS, INK, QUIET, GRID = "#0b6e4f", "#1f2933", "#66727f", "#e4e8ec"
ENGINES = {"llama.cpp": "#c05621", "GPTQ": "#2b6cb0", "round to nearest": "#8a8f98"}

Spot = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """One plot: where it lies and what its axes mean.

    Attributes:
        left: of the plotting area.
        span: values at its left and right edge.
        ticks: values with their labels.
        name: of the horizontal axis.
    """

    left: float
    span: tuple[float, float]
    ticks: Sequence[tuple[float, str]]
    name: str
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    @property
    def right(self) -> float:
        """Right edge of the plotting area."""
        return self.left + PANEL - 16

    def x(self, value: float) -> float:
        """Where a size is."""
        low, high = self.span
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def has(self, value: float) -> bool:
        """Whether a size is on the plot."""
        return self.span[0] <= value <= self.span[1]

    def frame(self) -> list[str]:
        """Grid, axes and names."""
        bottom = HEIGHT - BOTTOM
        parts = []
        for percent in (0.1, 0.3, 1, 3, 10, 30, 100):
            parts.append(_line((self.left, y(percent)), (self.right, y(percent)), GRID))
            parts.append(_text(self.left - 8, y(percent) + 4, f"{percent:g}%", "end"))
        for value, label in self.ticks:
            parts.append(_line((self.x(value), bottom), (self.x(value), bottom + 5), QUIET))
            parts.append(_text(self.x(value), bottom + 20, label, "middle"))
        parts.append(_line((self.left, bottom), (self.right, bottom), QUIET))
        middle = (self.left + self.right) / 2
        return [*parts, _text(middle, bottom + 42, self.name, "middle", INK, 13)]

    def label(self, at: Spot, words: str, color: str, prefer: str = "right") -> str:
        """Words beside a point, where no others stand yet."""
        width = 6.6 * len(words)
        places: dict[str, tuple[float, float, str]] = {
            "right": (9, 4, "start"),
            "above": (0, -9, "middle"),
            "left": (-9, 4, "end"),
            "below": (0, 18, "middle"),
            "far right": (9, -8, "start"),
            "low right": (9, 15, "start"),
            "far left": (-9, -8, "end"),
            "low left": (-9, 15, "end"),
        }
        order = [prefer, *(name for name in places if name != prefer)]
        for name in order:
            dx, dy, anchor = places[name]
            box = _box(at[0] + dx, at[1] + dy, width, anchor)
            inside = box[0] > self.left and box[2] < self.right + 12
            if inside and not any(_meet(box, other) for other in self.taken):
                break
        self.taken.append(box)
        return _text(at[0] + dx, at[1] + dy, words, anchor, color, 11)

    def claim(self, spots: Iterable[Spot], reach: float = 5) -> None:
        """Keep labels away from these points."""
        self.taken.extend((x - reach, v - reach, x + reach, v + reach) for x, v in spots)


def y(percent: float) -> float:
    """Where an excess is; logarithmic."""
    share = math.log(max(percent, LOW) / LOW) / math.log(HIGH / LOW)
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def draw(points: Sequence[common.Json], peers: common.Json) -> str:
    """The figure; `points` are the files of results/quality."""
    sizes = Panel(
        LEFT,
        (1.4e6, 6.4e6),
        [(v * 1e6, f"{v} MB") for v in (2, 3, 4, 5, 6)],
        "bytes of all tensors (the original has 11.5 MB)",
    )
    bits = Panel(
        LEFT + PANEL + GAP,
        (1.3, 6.7),
        [(v, str(v)) for v in (2, 3, 4, 5, 6)],
        "bits per weight of the linears, everything stored counted",
    )
    own = [p for p in points if p["point"]["preset"] is None]
    parts = [
        *_heading(),
        *sizes.frame(),
        *_goals(sizes, peers["goals"]),
        *_curve(sizes, [p for p in own if p["point"]["size"]], lambda p: float(p["bytes"])),
        *_peers(sizes, peers["peers"], "bytes"),
        *bits.frame(),
        *_curve(
            bits,
            [p for p in own if p["point"]["bits"]],
            lambda p: float(p["bits_per_weight"]["linears"]),
        ),
        *_peers(bits, peers["peers"], "bits"),
    ]
    return _svg(parts)


def _heading() -> list[str]:
    keys = [("sprue", OURS), *ENGINES.items()]
    parts = [
        _text(LEFT - 40, 24, "base6m: perplexity above the original's, over size", "start", INK, 16)
    ]
    x = LEFT - 40
    for name, color in keys:
        parts.append(_mark((x + 5, 42), color, name == "sprue"))
        parts.append(_text(x + 15, 46, name, "start", INK, 12))
        x += 34 + 7 * len(name)
    parts.append(_cross((x + 5, 42)))
    return [*parts, _text(x + 15, 46, "goal: 0.6 to 0.7 of the best peer", "start", INK, 12)]


def _curve(
    panel: Panel, points: Sequence[common.Json], size: Callable[[common.Json], float]
) -> list[str]:
    """Our line, its 95% band, and a mark with a hint at every point."""
    shown = [(size(p), p) for p in points if panel.has(size(p))]
    found = sorted(shown, key=lambda entry: entry[0])
    ends = [
        (panel.x(s), *(100 * p["excess"][k] for k in ("value", "low", "high"))) for s, p in found
    ]
    upper = [(x, y(high)) for x, _, _, high in ends]
    lower = [(x, y(low)) for x, _, low, _ in ends]
    middle = [(x, y(value)) for x, value, _, _ in ends]
    for (x1, y1), (x2, y2) in pairwise(middle):
        steps = max(1, int(math.hypot(x2 - x1, y2 - y1) / 12))
        along = [i / steps for i in range(steps + 1)]
        panel.claim([(x1 + (x2 - x1) * t, y1 + (y2 - y1) * t) for t in along], 4)
    band = " ".join(f"{x:.1f},{v:.1f}" for x, v in [*upper, *reversed(lower)])
    path = " ".join(f"{x:.1f},{v:.1f}" for x, v in middle)
    parts = [
        f'<polygon points="{band}" fill="{OURS}" fill-opacity="0.13"/>',
        f'<polyline points="{path}" fill="none" stroke="{OURS}" stroke-width="2.2"/>',
    ]
    for at, (_, point) in zip(middle, found, strict=True):
        excess, linear = point["excess"], point["bits_per_weight"]["linears"]
        hint = f"{point['bytes']:,} bytes, {linear:.2f} bits: {100 * excess['value']:.2f}%"
        parts.append(_mark(at, OURS, True, hint))
    return parts


def _peers(panel: Panel, peers: Sequence[common.Json], key: str) -> list[str]:
    shown = [p for p in peers if key in p and panel.has(p[key])]
    spots = [(panel.x(p[key]), y(p["excess"])) for p in shown]
    panel.claim(spots)
    parts = []
    for at, peer in zip(spots, shown, strict=True):
        color = ENGINES[peer["engine"]]
        note = " + importance matrix" if peer.get("imatrix") else ""
        below = "" if peer["excess"] >= LOW else f", shown at {LOW}%"
        hint = f"{peer['engine']} {peer['name']}{note}: {peer['excess']:g}%{below}"
        parts.append(_mark(at, color, False, hint))
        prefer = "left" if peer["engine"] == "GPTQ" else "right"
        parts.append(panel.label(at, peer["name"], color, prefer))
    return parts


def _goals(panel: Panel, goals: Sequence[common.Json]) -> list[str]:
    spots = [(panel.x(g["bytes"]), y(g["excess"])) for g in goals]
    panel.claim(spots)
    return [_cross(at, f"goal: {g['excess']:g}%") for at, g in zip(spots, goals, strict=True)]


def _mark(at: Spot, color: str, ours: bool, hint: str = "") -> str:
    fill = color if ours else "#ffffff"
    return (
        f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4" fill="{fill}" stroke="{color}" '
        f'stroke-width="1.8"><title>{escape(hint)}</title></circle>'
    )


def _cross(at: Spot, hint: str = "") -> str:
    x, v = at
    return (
        f'<path d="M{x - 4:.1f} {v - 4:.1f}l8 8m0 -8l-8 8" stroke="{INK}" stroke-width="1.6">'
        f"<title>{escape(hint)}</title></path>"
    )


def _line(a: Spot, b: Spot, color: str) -> str:
    return (
        f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" stroke="{color}"/>'
    )


def _text(
    x: float, v: float, words: str, anchor: str, color: str = QUIET, size: float = 11.5
) -> str:
    return (
        f'<text x="{x:.1f}" y="{v:.1f}" text-anchor="{anchor}" fill="{color}" '
        f'font-size="{size:g}">{escape(words)}</text>'
    )


def _box(x: float, v: float, width: float, anchor: str) -> tuple[float, float, float, float]:
    start = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
    return start, v - 10, start + width, v + 2


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _svg(parts: Iterable[str]) -> str:
    words = "Excess perplexity of sprue, llama.cpp, GPTQ and round to nearest over size"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-label="{words}" font-family="system-ui, Helvetica, Arial, sans-serif">\n'
        f'<rect width="{WIDTH:g}" height="{HEIGHT:g}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
