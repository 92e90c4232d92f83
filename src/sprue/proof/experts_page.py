"""The page of a conversion to experts: what was kept, who computes, who computes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from sprue import __version__
from sprue.proof import page, svg
from sprue.proof.form import percent, size

_LEFT, _RIGHT, _TOP = 46.0, 12.0, 10.0
_PICTURES = 8  # blocks whose co-activation is drawn, evenly spaced


def render(found: Mapping[str, Any]) -> str:
    """The page as HTML, with everything in it that it shows.

    Args:
        found: `experts.ExpertsReport.as_dict()`.
    """
    return page.template("experts.html").render(
        css=Markup(page.file("report.css")),
        version=__version__,
        headline=_headline(found),
        lead=_lead(found),
        name=found["out"],
        tiles=_tiles(found),
        lessons=_lessons(found),
        plots=_plots(found),
        pictures=[_picture(found["layers"][i]) for i in _spaced(len(found["layers"]))],
        rows=_rows(found),
    )


def _headline(found: Mapping[str, Any]) -> str:
    plan = found["split"]
    return f"{plan['active']} of {plan['experts']} experts compute for a token"


def _lead(found: Mapping[str, Any]) -> str:
    plan = found["split"]
    shared = f", {plan['shared']} of them always" if plan["shared"] else ""
    return (
        f"The {len(found['layers'])} feed-forward layers of {found['original']['name']} became "
        f"{plan['experts']} experts each; a token computes {plan['active']}{shared}. The rest is "
        "not computed."
    )


def _tiles(found: Mapping[str, Any]) -> list[dict[str, str]]:
    counts = found["parameters"]
    tiles = [
        ("of the feed-forward FLOPs, router included", percent(found["feed_forward"]["share"])),
        ("parameters active", f"{100 * counts['active'] / counts['total']:.1f}%"),
        ("bytes of all tensors", size(found["bytes"])),
    ]
    if found["looks"]:
        tiles += [("kept on text held back", percent(found["looks"][-1]["kept"]))]
    else:
        lost = sum(layer["lost"][1] for layer in found["layers"]) / len(found["layers"])
        tiles += [("of the layers' output energy lost", percent(lost))]
    return [{"name": name, "value": value} for name, value in tiles]


def _lessons(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    looks = found["looks"]
    if not looks:
        return []
    kept = [(float(look["step"]), float(look["kept"])) for look in looks]
    losses = [(float(i), float(loss)) for i, loss in enumerate(found["losses"])]
    return [
        _plot(
            "Quality kept",
            "The original's perplexity over the student's, on windows of the calibration text that "
            "were held back. 100%: as good as the original.",
            _curve(kept, "steps", "kept", lambda v: f"{100 * v:g}%", dots=True),
        ),
        _plot(
            "Divergence while learning",
            "KL of the student from its teacher in each step, nats per token.",
            _curve(losses, "steps", "nats per token", lambda v: f"{v:g}"),
        ),
    ]


def _plots(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    layers = found["layers"]
    return [
        _plot(
            "Load of the experts",
            "Share of the calibration tokens that compute each routed expert, block by block. The "
            "stronger the color, the busier.",
            _table([layer["load"] for layer in layers], "block", "expert"),
        ),
        _plot(
            "Lost by each layer",
            "|T - y|² / |T|² over the calibration tokens: T is what the original's layer gave. "
            "Circle: before the repair. Dot: after it.",
            _losses([layer["lost"] for layer in layers]),
        ),
    ]


def _picture(layer: Mapping[str, Any]) -> dict[str, Any]:
    return _plot(
        layer["module"],
        "Correlation of how active neurons are: the mean over pairs of neurons within an expert "
        "(diagonal) and of two experts. A strong diagonal is what grouping is for.",
        _table(layer["correlation"], "expert", "expert", square=True),
    )


def _spaced(count: int) -> list[int]:
    if count <= _PICTURES:
        return list(range(count))
    return [round(i * (count - 1) / (_PICTURES - 1)) for i in range(_PICTURES)]


def _rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "module": layer["module"],
            "neurons": f"{layer['layout']['shared'] + sum(layer['layout']['routed']):,}",
            "before": percent(layer["lost"][0]),
            "after": percent(layer["lost"][1]),
            "busiest": percent(max(layer["load"])),
            "idlest": percent(min(layer["load"])),
        }
        for layer in found["layers"]
    ]


def _plot(title: str, caption: str, drawing: str) -> dict[str, Any]:
    return {"title": title, "caption": caption, "svg": Markup(drawing)}


def _curve(
    points: Sequence[tuple[float, float]], across: str, up: str, form: Any, dots: bool = False
) -> str:
    """A line through `points`, and a dot at each."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    pad = max(0.06 * (max(ys) - min(ys)), 1e-6)
    low, high, bottom = min(ys) - pad, max(ys) + pad, 210.0
    x = svg.scale((min(xs), max(xs)), (_LEFT, svg.WIDTH - _RIGHT))
    y = svg.scale((low, high), (bottom, _TOP))
    parts = []
    for value in svg.ticks(low, high):
        parts += [svg.line(_LEFT, y(value), svg.WIDTH - _RIGHT, y(value), "grid")]
        parts += [svg.text(_LEFT - 5, y(value) + 4, form(value), "tick", "end")]
    for value in svg.ticks(min(xs), max(xs)):
        parts += [svg.text(x(value), bottom + 15, f"{value:g}", "tick", "middle")]
    parts += [
        svg.line(x(a), y(b), x(c), y(d), "whisker result") for (a, b), (c, d) in pairwise(points)
    ]
    if dots:
        parts += [
            svg.shape("circle", "point result", f"{a:g}: {form(b)}", cx=x(a), cy=y(b), r=3.5)
            for a, b in points
        ]
    parts += [svg.text(svg.WIDTH / 2, bottom + 31, across, "axis-name", "middle")]
    told = f"from {form(ys[0])} to {form(ys[-1])} over {xs[-1]:g} {across}"
    return svg.drawing(bottom + 36, up, told, parts)


def _losses(pairs: Sequence[tuple[float, float]]) -> str:
    top = max([1e-6, *(value for pair in pairs for value in pair)])
    bottom = 210.0
    x = svg.scale((-0.5, len(pairs) - 0.5), (_LEFT, svg.WIDTH - _RIGHT))
    y = svg.scale((0, 1.08 * top), (bottom, _TOP))
    parts = []
    for value in svg.ticks(0, top):
        parts += [svg.line(_LEFT, y(value), svg.WIDTH - _RIGHT, y(value), "grid")]
        parts += [svg.text(_LEFT - 5, y(value) + 4, f"{100 * value:g}%", "tick", "end")]
    for i, (before, after) in enumerate(pairs):
        hint = f"block {i}: {percent(before)} before, {percent(after)} after"
        parts += [svg.line(x(i), y(before), x(i), y(after), "axis")]
        parts += [svg.shape("circle", "hollow", hint, cx=x(i), cy=y(before), r=4)]
        parts += [svg.shape("circle", "point result", hint, cx=x(i), cy=y(after), r=4)]
    for value in svg.ticks(0, len(pairs) - 1):
        if value == int(value):
            parts += [svg.text(x(value), bottom + 15, f"{value:g}", "tick", "middle")]
    parts += [svg.text(svg.WIDTH / 2, bottom + 31, "block", "axis-name", "middle")]
    told = f"{len(pairs)} layers; at most {percent(max(after for _, after in pairs))} after repair"
    return svg.drawing(bottom + 36, "Lost by each layer", told, parts)


def _table(values: Sequence[Sequence[float]], down: str, across: str, square: bool = False) -> str:
    """A heat map: one row for each of `down`, one column for each of `across`."""
    columns = max(len(row) for row in values)
    wide = (svg.WIDTH - _LEFT - _RIGHT) / columns
    high = min(wide, 26.0) if not square else min(wide, 34.0)
    most = max([1e-12, *(value for row in values for value in row)])
    parts = []
    for i, row in enumerate(values):
        y = _TOP + i * high
        parts += [svg.text(_LEFT - 5, y + high / 2 + 4, str(i), "tick", "end")]
        for j, value in enumerate(row):
            strength = max(0.0, value / most)
            cell = svg.shape(
                "rect", "cell", f"{down} {i}, {across} {j}: {value:.3f}",
                x=_LEFT + j * wide, y=y, width=wide - 1, height=high - 1,
            )  # fmt: skip
            parts += [cell.replace("<rect ", f'<rect fill-opacity="{0.04 + 0.9 * strength:.2f}" ')]
            if wide > 30:
                kind = "cell-text on" if strength > 0.6 else "cell-text"
                middle = _LEFT + (j + 0.5) * wide
                parts += [svg.text(middle, y + high / 2 + 4, f"{value:.2f}", kind, "middle")]
    bottom = _TOP + len(values) * high
    parts += [svg.text(svg.WIDTH / 2, bottom + 16, across, "axis-name", "middle")]
    told = f"{len(values)} by {columns}, at most {most:.3f}"
    return svg.drawing(bottom + 22, f"{down} by {across}", told, parts)
