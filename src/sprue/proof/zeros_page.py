"""The page of a model with thresholds: what zeros cost, and which linears bear them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from sprue.proof import layers, page, plots
from sprue.proof.form import percent


def render(artifact: Mapping[str, Any]) -> str:
    """The page as HTML, with everything in it that it shows.

    Args:
        artifact: the content of a sprue.json that has "activations".
    """
    told = artifact["activations"]
    found = layers.matrices(artifact["tensors"])
    return page.template("zeros.html").render(
        css=Markup(page.file("report.css")),
        version=artifact["sprue"],
        name=artifact["original"]["name"],
        met=percent(told["met"]),
        target=f"{100 * told['target']:g}%",
        tiles=_tiles(told),
        plots=_plots(told, found),
        matrices=[{**artifact["tensors"][m.module], "module": m.module} for m in found],
        data=artifact["data"],
        seed=artifact["seed"],
        fallbacks=artifact["fallbacks"],
    )


def _tiles(told: Mapping[str, Any]) -> list[dict[str, str]]:
    flops = told["flops"]
    return [
        {"name": "of the linears' weights meet a zero", "value": percent(told["met"])},
        {"name": "were asked for", "value": f"{100 * told['target']:g}%"},
        {
            "name": "of the operations, head included",
            "value": f"{100 * flops['result'] / flops['original']:.1f}%",
        },
        {
            "name": "nats per token of divergence, predicted",
            "value": f"{told['predicted_kl_nats']:.4f}",
        },
    ]


def _plots(told: Mapping[str, Any], found: list[layers.Matrix]) -> list[dict[str, Any]]:
    curve = Markup(plots.zeros_curve(told["curve"], told["target"]))
    legend = [
        {"mark": Markup(plots.legend_mark(i)), "name": name}
        for i, name in enumerate(("shared out by cost", "the same share everywhere"))
    ]
    return [
        {
            "title": "What zeros cost",
            "caption": "Predicted divergence from the original. Upright line: what was asked for.",
            "svg": curve,
            "legend": legend,
        },
        {
            "title": "By layer",
            "caption": "Dot: one matrix. Bar: all of the layer, by weights.",
            "svg": Markup(plots.zeros_by_layer(found)),
            "legend": [],
        },
        {
            "title": "By kind of linear",
            "caption": "In percent of the inputs. The stronger the color, the more are zero.",
            "svg": Markup(plots.zeros_by_kind(found)),
            "legend": [],
        },
        {
            "title": "Error by kind of linear",
            "caption": "In percent of the output's energy that the thresholds take.",
            "svg": Markup(plots.error_by_kind(found)),
            "legend": [],
        },
    ]
