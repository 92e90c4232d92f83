"""The report as one page: figures and plots laid into the template beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from sprue.proof import layers, plots, table
from sprue.proof.energy import MODELLED
from sprue.proof.form import asked, percent, signed, size

if TYPE_CHECKING:
    from sprue.proof.layers import Matrix
    from sprue.proof.machine import Machine
    from sprue.proof.report import Report

_ROOM = "sprue.proof"


def render(report: Report) -> str:
    """The page as HTML, with everything in it that it shows."""
    artifact = report.artifact or {}
    found = _matrices(report, artifact.get("tensors", {}))
    inside = [matrix for matrix in found if matrix.layer is not None]
    return template("report.html").render(
        css=Markup(file("report.css")),
        version=report.machine.versions["sprue"],
        date=report.machine.date.replace("T", " ").replace("+00:00", " UTC"),
        result_name=report.result,
        **_top(report),
        rows=table.rows(report),
        lost=_lost(report),
        layers=_layers(inside, found),
        matrices=found,
        method=_method(report),
        measured=_measured(report),
        machine=machine_lines(report.machine),
        told=report.artifact is not None,
        made=_made(artifact),
        fallbacks=[_words(fallback) for fallback in artifact.get("fallbacks", [])],
        recipe=_yaml(artifact.get("recipe")),
    )


def _matrices(report: Report, tensors: Mapping[str, Any]) -> list[Matrix]:
    """What sprue.json records, with the zeros that were counted on this text."""
    met = report.zeros.shares if report.zeros else {}
    return [replace(m, zeros=met.get(m.module)) for m in layers.matrices(tensors)]


@cache
def template(name: str, room: str = _ROOM) -> Template:
    """Of a page of some room; it can import what stands in the templates of this one."""

    def found(which: str) -> str:
        return file(which, room if which == name else _ROOM)

    environment = Environment(
        loader=FunctionLoader(found), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)


def file(name: str, room: str = _ROOM) -> str:
    """The text of a file beside this one, or of another room."""
    return resources.files(room).joinpath(name).read_text(encoding="utf-8")


def _top(report: Report) -> dict[str, Any]:
    """The verdict: in words, as a plot, and the figures that matter most."""
    met = "passed" if report.passed else "failed"
    mood = "measured" if report.verdict.keep is None else met
    pill = {"passed": "Margin met", "failed": "Margin not met", "measured": "No margin asked for"}
    headline, _, rest = report.statement.partition("; ")
    return {
        "mood": mood,
        "pill": pill[mood],
        "headline": headline.rstrip("."),
        "lead": f"{rest[:1].upper()}{rest[1:]} {_lead(report)}".strip(),
        "margin": {
            "svg": Markup(plots.margin(report.quality.kept, report.verdict)),
            "caption": "Dot: the share of quality that was measured, with its 95% interval. "
            "Upright bar: the lower bound that the verdict rests on.",
        },
        "tiles": _tiles(report),
        "meaning": _meaning(report),
    }


def _lead(report: Report) -> str:
    a, b = report.nbytes
    excess = report.quality.excess
    return (
        f"{report.original} has {size(a)} of tensors, {report.result} {size(b)}: "
        f"{table.smaller(a, b)}. The perplexity is {report.quality.perplexity_result.value:.3f}, "
        f"the original's {report.quality.perplexity_original.value:.3f}: {signed(excess.value)}, "
        f"95% interval {signed(excess.low)} to {signed(excess.high)}."
    )


def _tiles(report: Report) -> list[dict[str, str]]:
    a, b = report.nbytes
    tiles = [
        ("of the original's bytes", f"{100 * b / a:.1f}%"),
        ("of the quality, measured", percent(report.quality.kept.value)),
        ("same likeliest token", percent(report.quality.top1_agreement.value)),
    ]
    bits = report.bits_per_weight["linears"]
    if report.costs is not None:
        tiles += [("writing speed", f"{report.costs.speed.ratio.value:.2f}×")]
    elif bits is not None:
        tiles += [("bits per weight, linears", f"{bits:.2f}")]
    else:
        tiles += [("divergence, nats per token", f"{report.quality.kl_nats.value:.4f}")]
    return [{"name": name, "value": value} for name, value in tiles]


def _meaning(report: Report) -> list[str]:
    keep = report.verdict.keep
    margin = "a margin" if keep is None else asked(keep)
    return [
        "Quality is the probability that a model gives to the next token of the text, averaged as "
        "perplexity does. What was kept is the original's perplexity over the result's: 100% means "
        "that the result predicts the text as well as the original.",
        f"To ask for {margin} is a question of non-inferiority. The answer is yes only if the "
        "one-sided lower bound of what was kept, with 95% confidence, reaches the margin: had less "
        "been kept in truth, text like this would let it pass at most once in twenty times.",
        f"The statement is about text like that of the files below, in windows of {report.context} "
        "tokens. Other text and other tasks need data of their own.",
    ]


def _lost(report: Report) -> list[dict[str, Any]]:
    names = [sample.name for sample in report.samples]
    files = {name: quality.excess for name, quality in zip(names, report.files, strict=True)}
    legend = [{"mark": Markup(plots.legend_mark(i)), "name": n} for i, n in enumerate(names)]
    return [
        _plot(
            "By file",
            "Perplexity of the result over the original's, minus 1, with 95% intervals. Zero: "
            "nothing was lost.",
            plots.excess(files, report.quality.excess),
        ),
        _plot(
            "By window",
            "Each mark is a window that both models read. Above the line the result predicts it "
            "worse than the original; further right the text is harder.",
            plots.losses(report.samples),
            legend if len(names) > 1 else [],
        ),
    ]


def _layers(inside: list[Matrix], found: list[Matrix]) -> list[dict[str, Any]]:
    if not inside:
        return []
    return [
        *_zeros(inside),
        _plot("Error", "Dot: one matrix. Bar: mean of the layer.", plots.error_by_layer(inside)),
        _plot(
            "Error by kind of linear",
            "In percent of the output's energy. The stronger the color, the more was lost.",
            plots.error_by_kind(inside),
        ),
        _plot(
            "Bits",
            "Bits per weight, everything stored included. Blue: outside the layers.",
            plots.bits_by_layer(found),
        ),
        _plot(
            "Bits by kind of linear",
            "Bits per weight. The stronger the color, the more were spent.",
            plots.bits_by_kind(inside),
        ),
    ]


def _zeros(inside: list[Matrix]) -> list[dict[str, Any]]:
    if all(m.zeros is None for m in inside):
        return []
    return [
        _plot(
            "Zeros",
            "Share of weights that met a zero on this text. Dot: one matrix. Bar: the layer.",
            plots.zeros_by_layer(inside),
        ),
        _plot(
            "Zeros by kind of linear",
            "In percent of the inputs. The stronger the color, the more were zero.",
            plots.zeros_by_kind(inside),
        ),
    ]


def _plot(
    title: str, caption: str, drawing: str, legend: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {"title": title, "caption": caption, "svg": Markup(drawing), "legend": legend or []}


def _method(report: Report) -> list[str]:
    paragraphs = [
        "Both models read the same windows of text, the result as it loads from disk. Differences "
        "are taken window by window; the intervals are Student's t over windows, with the files as "
        "strata that weigh the same."
    ]
    if report.costs is None:
        return [*paragraphs, "Speed, memory and energy were not measured."]
    speed = report.costs.speed
    return [
        *paragraphs,
        f"Speed: the models took turns, {speed.rounds} times after one that does not count. Each "
        f"read {speed.prompt_tokens} tokens and wrote {speed.new_tokens} (batch of 1, greedy, with "
        "a key-value cache). Ratios are medians over the rounds, with the interval of the sign "
        f"test ({100 * speed.ratio.confidence:.0f}%). Memory: the most that was resident in a "
        "fresh process that loads the model in its stored dtype and reads one window.",
        _energy_method(report),
    ]


def _energy_method(report: Report) -> str:
    energy = report.costs.energy if report.costs else None
    if energy is None:
        return "Energy: no counter of this accelerator could be read, and none is made up."
    if energy[0].source != MODELLED:
        return f"Energy: read from {energy[0].source.upper()}, with all else that ran meanwhile."
    watts = energy[0].constants["watts_per_core"]
    pico = energy[0].constants["picojoules_per_byte"]
    return (
        "Energy: modelled, since this machine has no counter that can be read: CPU seconds times "
        f"{watts[0]:g} to {watts[1]:g} watts for a core, plus the bytes of all tensors, once for "
        f"each token, times {pico[0]:g} to {pico[1]:g} picojoules."
    )


def _measured(report: Report) -> list[tuple[str, str]]:
    files = [
        (s.name, f"{len(s.original)} windows of {report.context} tokens") for s in report.samples
    ]
    return [
        *files,
        ("sha256 of the data", report.fingerprint),
        ("Seed", str(report.seed)),
        ("Device", report.device),
    ]


def machine_lines(machine: Machine) -> list[tuple[str, str]]:
    """What a measurement ran on, in words."""
    lines = [
        ("Processor", machine.processor),
        ("Cores", f"{machine.cores}, of which torch uses {machine.threads}"),
        ("Memory", size(machine.memory_bytes)),
        ("System", machine.system),
        ("Versions", ", ".join(f"{name} {value}" for name, value in machine.versions.items())),
    ]
    return [*lines, ("Accelerator", machine.accelerator)] if machine.accelerator else lines


def _made(artifact: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = {
        "Original": artifact.get("original"),
        "Seed": artifact.get("seed"),
        "Versions": artifact.get("versions"),
        "Calibration": artifact.get("data"),
    }
    return [(name, _words(value)) for name, value in told.items() if value is not None]


def _words(value: Any) -> str:
    """A value of sprue.json in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_words(inner) for inner in value)
    return str(value)


def _yaml(recipe: Any) -> str:
    return "" if recipe is None else str(yaml.safe_dump(recipe, sort_keys=False))
