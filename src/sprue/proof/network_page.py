"""The page of a network and its original: figures and plots laid into the template beside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from sprue.proof import network_plots, page, plots
from sprue.proof.energy import MODELLED
from sprue.proof.form import percent
from sprue.proof.intervals import Estimate

if TYPE_CHECKING:
    from sprue.proof.network_report import NetworkReport

_WORDS = {"measured": "Measured", "passed": "Budget met", "failed": "Budget not met"}


def render(report: NetworkReport) -> str:
    """The page as HTML, with everything in it that it shows."""
    artifact = report.artifact or {}
    asked = report.verdict.keep is not None or report.broken
    mood = ("passed" if report.passed else "failed") if asked else "measured"
    return _template().render(
        css=Markup(page.file("report.css")),
        version=report.machine.versions["sprue"],
        date=report.machine.date.replace("T", " ").replace("+00:00", " UTC"),
        result=report.result,
        task=report.task,
        mood=mood,
        pill=_WORDS[mood],
        headline=_headline(report),
        statement=report.statement,
        engine=report.engine,
        tiles=_tiles(report),
        rows=report.rows(),
        plots=_plots(report, artifact),
        trials=report.trials,
        fallbacks=artifact.get("fallbacks", []),
        measured=_measured(report, artifact),
        machine=page.machine_lines(report.machine),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(page.file("network.html"))


def _headline(report: NetworkReport) -> str:
    times, size = 1 / report.single.ratio.value, 100 * report.size_ratio
    kept = percent(report.scores[0].kept.value)
    return f"{kept} of {report.scores[0].name}, {times:.2f} times as fast, {size:.1f}% of the size"


def _tiles(report: NetworkReport) -> list[dict[str, str]]:
    tiles = [
        {"value": percent(report.verdict.kept_at_least), "name": "kept at least"},
        {"value": f"{100 * report.single.ratio.value:.1f}%", "name": "of the latency"},
        {"value": f"{100 * report.size_ratio:.1f}%", "name": "of the size"},
    ]
    source = report.energy[1].source
    tiles += [
        {"value": f"{100 * report.energy_ratio:.1f}%", "name": f"of the energy ({source})"},
    ]
    return tiles


def _plots(report: NetworkReport, artifact: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "title": "What is left",
            "caption": "As shares of the original's, which is the upright line.",
            "svg": Markup(network_plots.left(_costs(report))),
            "legend": [],
        }
    ]
    if report.trials:
        kinds = list(dict.fromkeys(t["precision"] for t in report.trials))[: plots.KINDS]
        chosen = artifact.get("cut", {}).get("file")
        svg = network_plots.tried(report.trials, report.verdict.keep, chosen, kinds)
        legend = [
            {"mark": Markup(plots.legend_mark(i)), "name": kind} for i, kind in enumerate(kinds)
        ]
        found.append(
            {
                "title": "What was tried",
                "caption": "Each dot is a file; the ring is the result, the line what was asked.",
                "svg": Markup(svg),
                "legend": legend,
            }
        )
    if artifact.get("pruned"):
        found.append(
            {
                "title": "What left the network",
                "caption": "Channels, heads and neurons by the layer that reads them.",
                "svg": Markup(network_plots.widths(artifact["pruned"])),
                "legend": [],
            }
        )
    return found


def _costs(report: NetworkReport) -> list[tuple[str, Estimate]]:
    found = [("size", _exact(report.size_ratio)), ("latency", report.single.ratio)]
    if report.many is not None:
        found.append((f"time of {report.many_examples}", report.many.ratio))
    found.append(("energy", _exact(report.energy_ratio)))
    if report.memory_ratio is not None:
        found.append(("memory", _exact(report.memory_ratio)))
    if report.parameters is not None:
        found.append(("parameters", _exact(report.parameters[1] / report.parameters[0])))
    return found


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _measured(report: NetworkReport, artifact: Mapping[str, Any]) -> list[tuple[str, str]]:
    shapes = "; ".join(f"{n} {'x'.join(map(str, d))}" for n, d in report.shape.items())
    found = [
        ("Original", report.original),
        ("Result", report.result),
        ("Engine", f"{report.engine}, threads: {report.threads}"),
        ("Arguments", shapes),
        ("Data", ", ".join(report.data)),
        ("Examples", f"{report.examples:,}"),
        ("sha256 of the data", report.fingerprint),
        ("Seed", str(report.seed)),
        ("Energy", _energy(report)),
    ]
    told = artifact.get("saturation")
    if told is not None and told["matrices"]:
        safe = (
            "cannot pass 16 bits: every processor computes the same"
            if told["safe"]
            else "can pass 16 bits: processors without VNNI may answer otherwise (--portable)"
        )
        found.append(("8-bit sums", f"{safe}; the largest is {told['worst']:,} of 32,767"))
    return found


def _energy(report: NetworkReport) -> str:
    energy = report.energy[1]
    if energy.source != MODELLED:
        return f"read from {energy.source}"
    watts, joules = (energy.constants[k] for k in ("watts_per_core", "picojoules_per_byte"))
    return (
        f"modelled: CPU seconds at {watts[0]:g} to {watts[1]:g} W for a core, and the file's bytes "
        f"at {joules[0]:g} to {joules[1]:g} pJ"
    )
