"""The page of an audit: figures and plots laid into the template beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sprue.proof import audit_plots, audit_table, page, plots
from sprue.proof.form import size
from sprue.structure.findings import DIRECTIONS, HALF, INPUTS, QUARTER, UNREAD

if TYPE_CHECKING:
    from sprue.proof.audit_report import AuditReport

_OPTIONS = 30  # that the page lists


def render(report: AuditReport) -> str:
    """The page as HTML, with everything in it that it shows."""
    found = report.findings
    headline, _, rest = report.statement.partition(": ")
    return page.template("audit.html").render(
        css=Markup(page.file("report.css")),
        version=report.machine.versions["sprue"],
        date=report.machine.date.replace("T", " ").replace("+00:00", " UTC"),
        model=report.model,
        headline=headline,
        lead=f"{rest[:1].upper()}{rest[1:]}",
        measured=found.measured,
        tiles=_tiles(report),
        plots=_plots(report),
        error=audit_table.share_of(found.error),
        share=audit_table.share_of(found.share),
        r2=f"{found.r2:g}",
        heads=audit_table.LAYER_HEADS,
        layers=[audit_table.layer_row(layer) for layer in found.layers],
        technique_heads=audit_table.TECHNIQUE_HEADS,
        techniques=audit_table.technique_rows(found),
        option_heads=audit_table.OPTION_HEADS,
        options=[audit_table.option_row(o) for o in found.options[:_OPTIONS]],
        all_options=len(found.options),
        idle=found.idle,
        settings=_settings(report),
        machine=page.machine_lines(report.machine),
    )


def _tiles(report: AuditReport) -> list[dict[str, str]]:
    found = report.findings
    dead = sum(layer.dead_connections or 0 for layer in found.layers)
    repeated = [layer for layer in found.layers if layer.repeated_inputs is not None]
    features = sum(layer.inputs for layer in repeated)
    alike = sum(layer.repeated_inputs or 0 for layer in repeated)
    tiles = [
        (
            "of the parameters are spare",
            audit_table.share_of(found.spare / max(found.parameters, 1)),
        ),
        ("of the connections are dead", audit_table.share_of(dead / max(found.seen, 1))),
        (
            "of the features that layers read are repeated",
            audit_table.share_of(alike / features) if features else "not known",
        ),
        (
            "of the parameters are in layers that were looked at",
            audit_table.share_of(found.seen / max(found.parameters, 1)),
        ),
    ]
    return [{"name": name, "value": value} for name, value in tiles]


def _plots(report: AuditReport) -> list[dict[str, Any]]:
    found = report.findings
    shown = [
        _plot(
            "Spare",
            "Share of each layer's parameters that can leave within the error.",
            audit_plots.spare(found.layers),
            {f"by {INPUTS}": 0, f"by {DIRECTIONS}": 1, UNREAD: 2},
        ),
        _plot(
            "Dead and repeated",
            "Shares of each layer's connections and inputs.",
            audit_plots.idle(found.layers),
            {"dead connections": 0, "dead inputs": 1, "repeated inputs": 2},
        ),
    ]
    return [*shown, *_predicted(report)] if found.measured else shown


def _predicted(report: AuditReport) -> list[dict[str, Any]]:
    found = report.findings
    names = {HALF: "a quarter or half of the inputs"}
    marks = {names.get(t, t): mark for t, mark in audit_plots.MARKS.items() if t in found.offered()}
    marks.pop(QUARTER, None)
    return [
        _plot(
            "What pays",
            "Each mark is a technique in one layer alone; the lower and the further right the "
            "better.",
            audit_plots.worth(found),
            marks,
        ),
        _plot(
            "The best way down",
            "At most one technique for each layer, those that pay best first; damages added up.",
            audit_plots.way_down(found),
        ),
        _plot(
            "Contributions",
            "|w| rms(x) of every connection over the root mean square of its output.",
            audit_plots.contributions(found),
        ),
    ]


def _plot(
    title: str, caption: str, drawing: str, legend: Mapping[str, int] | None = None
) -> dict[str, Any]:
    return {
        "title": title,
        "caption": caption,
        "svg": Markup(drawing),
        "legend": [
            {"mark": Markup(plots.legend_mark(i)), "name": n} for n, i in (legend or {}).items()
        ],
    }


def _settings(report: AuditReport) -> list[tuple[str, str]]:
    found = report.findings
    data = [
        ("Data", ", ".join(report.data)),
        ("sha256 of the data", report.fingerprint),
        ("Examples", f"{found.examples[0]} fitted to, {found.examples[1]} held out"),
        ("Draws", f"{found.draws} for each example held out"),
        ("Seed", str(found.seed)),
    ]
    return [
        ("Model", report.model),
        ("Task", report.task),
        *(data if found.measured else [("Data", "none")]),
        ("Parameters", f"{found.parameters:,}, {size(4 * found.parameters)} in float32"),
        ("MACs of an example", f"{found.macs:.4g}"),
    ]
