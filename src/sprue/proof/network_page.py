"""The page of a network and its original: figures and plots laid into the template beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sprue.proof import network_plots, page, plots
from sprue.proof.energy import MODELLED
from sprue.proof.form import asked, percent
from sprue.proof.intervals import Estimate
from sprue.proof.network_plots import Cost

if TYPE_CHECKING:
    from sprue.proof.network_report import NetworkReport

_WORDS = {"measured": "Measured", "passed": "Budget met", "failed": "Budget not met"}
_CLOSE = 10  # the close-up shows so many times the margin's distance from 100%
_GROUPS = 24  # in one figure

_Figure = dict[str, Any]


def render(report: NetworkReport) -> str:
    """The page as HTML, with everything in it that it shows."""
    artifact = report.artifact or {}
    demanded = report.verdict.keep is not None or report.broken
    mood = ("passed" if report.passed else "failed") if demanded else "measured"
    chosen = (artifact.get("cut") or {}).get("file")
    return page.template("network.html").render(
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
        sure=[f"{100 * e.confidence:.3g}%" for e in (report.scores[0].kept, report.single.ratio)],
        tiles=_tiles(report),
        rows=report.rows(),
        plots=_kept_and_costs(report),
        tried=_tried(report, chosen),
        trials=[dict(trial) | {"chosen": trial["file"] == chosen} for trial in report.trials],
        gone=_gone(artifact.get("pruned") or {}),
        fallbacks=artifact.get("fallbacks") or [],
        measured=_measured(report, artifact),
        machine=page.machine_lines(report.machine),
    )


def _headline(report: NetworkReport) -> str:
    times, size = 1 / report.single.ratio.value, 100 * report.size_ratio
    kept = percent(report.scores[0].kept.value)
    return f"{kept} of {report.scores[0].name}, {times:.2f} times as fast, {size:.1f}% of the size"


def _tiles(report: NetworkReport) -> list[tuple[str, str]]:
    return [
        (percent(report.verdict.kept_at_least), "kept at least"),
        (f"{100 * report.single.ratio.value:.1f}%", "of the latency"),
        (f"{100 * report.size_ratio:.1f}%", "of the size"),
        (f"{100 * report.energy_ratio:.1f}%", f"of the energy ({report.energy[1].source})"),
    ]


def _figure(title: str, caption: str, svg: str, kinds: Sequence[str] = ()) -> _Figure:
    marks = (Markup(plots.legend_mark(i)) for i in range(len(kinds)))
    legend = [{"mark": mark, "name": kind} for mark, kind in zip(marks, kinds, strict=True)]
    return {"title": title, "caption": caption, "svg": Markup(svg), "legend": legend}


def _kept_and_costs(report: NetworkReport) -> list[_Figure]:
    keep = report.verdict.keep
    line = "" if keep is None else f" Line: {asked(keep)}, which {report.scores[0].name} must keep."
    missed = " Thick mark: what was asked for, where it is not met." if report.broken else ""
    return [
        _figure(
            "What was kept",
            "Result over original. Whiskers: the interval; thick mark: the lower bound." + line,
            network_plots.scores(report.scores, keep),
        ),
        _figure(
            "What is left of the costs",
            "Shares of the original's, which is the line; intervals where one was timed." + missed,
            network_plots.left(_costs(report)),
        ),
    ]


def _costs(report: NetworkReport) -> list[Cost]:
    allowed = {name: most for name, (_, most) in report.broken.items()}
    source = report.energy[1].source
    found = [
        Cost("size", _exact(report.size_ratio), allowed.get("size")),
        Cost("latency", report.single.ratio, allowed.get("latency")),
    ]
    if report.many is not None:
        found.append(Cost(f"time of {report.many_examples}", report.many.ratio))
    found.append(Cost(f"energy, {source}", _exact(report.energy_ratio), allowed.get("energy")))
    if report.memory_ratio is not None:
        found.append(Cost("memory", _exact(report.memory_ratio)))
    if report.parameters is not None:
        found.append(Cost("parameters", _exact(report.parameters[1] / report.parameters[0])))
    return found


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _tried(report: NetworkReport, chosen: str | None) -> list[_Figure]:
    """All trials, and those near the margin where others would press them together."""
    trials, keep = report.trials, report.verdict.keep
    if not trials:
        return []
    kinds = list(dict.fromkeys(t["precision"] for t in trials))
    caption = "A mark is a file. Color and shape: the precision; size and number: % of the FLOPs."
    caption += " Ring: the result." if chosen in [t["file"] for t in trials] else ""
    caption += "" if keep is None else f" Line: {asked(keep)}, which was asked for."
    svg = network_plots.tried(trials, keep, chosen, kinds)
    found = [_figure("All of them", caption, svg, kinds)]
    floor = 1 - _CLOSE * max(1 - (keep or 0.0), 0.001)
    fewer = sum(t["kept"] < floor for t in trials)
    if keep is not None and 0 < fewer < len(trials):
        svg = network_plots.tried(trials, keep, chosen, kinds, floor)
        caption = f"The same without those that kept less than {asked(floor)}: {fewer}."
        found.append(_figure("Near the margin", caption, svg, kinds))
    return found


def _gone(pruned: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """What left the groups that something left, a few dozen to a figure."""
    cut = {name: pair for name, pair in pruned.items() if pair[1] < pair[0]}
    if not cut:
        return None
    before, after = (sum(pair[which] for pair in pruned.values()) for which in (0, 1))
    size = math.ceil(len(cut) / math.ceil(len(cut) / _GROUPS))
    names = [list(cut)[i : i + size] for i in range(0, len(cut), size)]
    return {
        "units": f"{before - after:,} of {before:,}",
        "groups": f"{len(cut)} of {len(pruned)}",
        "plots": [Markup(network_plots.widths({n: cut[n] for n in some})) for some in names],
    }


def _measured(report: NetworkReport, artifact: Mapping[str, Any]) -> list[tuple[str, str]]:
    shapes = "; ".join(f"{n} {'x'.join(map(str, d))}" for n, d in report.shape.items())
    found = [
        ("Original", report.original),
        ("Result", report.result),
        *_made(artifact),
        ("Engine", f"{report.engine}, threads: {report.threads}"),
        ("Arguments", shapes),
        ("Data", ", ".join(report.data)),
        ("Examples", f"{report.examples:,}"),
        ("sha256 of the data", report.fingerprint),
        ("Timed", f"{report.single.rounds} rounds in turns, {report.single.calls} calls in each"),
        ("Seed", str(report.seed)),
        ("Energy", _energy(report)),
    ]
    told = artifact.get("saturation")
    return found if told is None else [*found, ("8-bit sums", _saturation(told))]


def _made(artifact: Mapping[str, Any]) -> list[tuple[str, str]]:
    cut = artifact.get("cut")
    if not cut:
        return []
    words = f"{cut['precision']}, {100 * cut['share']:.1f}% of the FLOPs"
    words += f", {_layers(cut['spared'])} left in float32" if cut["spared"] else ""
    words += ", HardSwish in the place of SiLU" if cut.get("hard") else ""
    words += _stored(artifact.get("bits") or {})
    words += f", trained for {cut['tuned'] / 60:.1f} minutes" if cut["tuned"] else ""
    return [("Made", words)]


def _layers(count: int) -> str:
    return f"{count} {'layer' if count == 1 else 'layers'}"


def _stored(bits: Mapping[str, int]) -> str:
    """How many layers have weights of fewer bits than the precision says."""
    counts = {width: list(bits.values()).count(width) for width in sorted(set(bits.values()))}
    return "".join(
        f", weights of {_layers(count)} stored in {width} bits" for width, count in counts.items()
    )


def _saturation(told: Mapping[str, Any]) -> str:
    if not told["matrices"]:
        return "none: no matrix is stored in 8 bits"
    end = (
        "every processor computes the same"
        if told["safe"]
        else "processors without VNNI may answer otherwise, which --portable avoids"
    )
    return (
        f"two products come to {told['worst']:,} at most, over {told['matrices']} matrices, and 16 "
        f"bits hold 32,767: {end}"
    )


def _energy(report: NetworkReport) -> str:
    energy = report.energy[1]
    if energy.source != MODELLED:
        return f"read from {energy.source}"
    watts, joules = (energy.constants[k] for k in ("watts_per_core", "picojoules_per_byte"))
    return (
        f"modelled: CPU seconds at {watts[0]:g} to {watts[1]:g} W for a core, and the file's bytes "
        f"at {joules[0]:g} to {joules[1]:g} pJ"
    )
