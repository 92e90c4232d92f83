"""The page of a sweep: curves, marks, a table and heat maps laid into the template beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sprue.proof import page, plots, sweep_plots
from sprue.proof.form import asked, percent
from sprue.proof.point import Curve, Point

if TYPE_CHECKING:
    from sprue.proof.sweep_report import SweepReport

_CLOSE = 10  # the close-up shows so many times the margin's distance from 100%


def render(report: SweepReport) -> str:
    """The page as HTML, with everything in it that it shows."""
    mood = "measured" if report.pick is None else "passed" if report.passed else "failed"
    words = {"measured": "Nothing picked", "passed": "Margin met", "failed": "Margin not met"}
    return page.template("sweep.html").render(
        css=Markup(page.file("report.css")),
        version=report.machine.versions["sprue"],
        date=report.machine.date.replace("T", " ").replace("+00:00", " UTC"),
        model=report.model,
        mood=mood,
        pill=words[mood],
        statement=report.statement,
        command=report.command,
        keep=asked(report.keep),
        families=[_family(report, family) for family in _families(report)],
        rows=[_row(report, curve) for curve in report.curves],
        elsewhere=_elsewhere(report),
        layers=_layers(report),
        points=[_line(point) for curve in report.curves for point in curve.points],
        tasks=[(name, _task(told)) for name, told in report.tasks.items()],
        settings=_settings(report),
        machine=page.machine_lines(report.machine),
    )


def _families(report: SweepReport) -> list[str]:
    return list(dict.fromkeys(curve.family for curve in report.curves))


def _family(report: SweepReport, family: str) -> dict[str, Any]:
    """The two plots of a pattern: all of it, and near the margin."""
    curves = [curve for curve in report.curves if curve.family == family]
    near = max(0.0, 1 - _CLOSE * max(1 - report.keep, 0.001))
    legend = [{"mark": Markup(plots.legend_mark(i)), "name": c.task} for i, c in enumerate(curves)]
    return {
        "name": family,
        "legend": legend,
        "plots": [
            Markup(sweep_plots.kept(curves, report.keep, report.seed, floor))
            for floor in (0.0, near)
        ],
    }


def _row(report: SweepReport, curve: Curve) -> dict[str, str]:
    task, family, knee, keeps, kept = report.row(curve)
    fails = curve.fails(report.keep)
    after = ""
    if fails is not None:
        q = fails.quality
        after = f"{100 * fails.zeros:.4g}%: {percent(q.kept.value)}, at least "
        after += percent(q.kept_at_least)
    return {
        "task": task,
        "pattern": family,
        "knee": knee,
        "keeps": keeps,
        "kept": kept,
        "fails": after,
    }


def _elsewhere(report: SweepReport) -> list[dict[str, Any]]:
    """For each pattern the task-by-task table, at the middle of the ratios that all tasks have."""
    found = []
    for family in _families(report) if len(report.tasks) > 1 else []:
        curves = [curve for curve in report.curves if curve.family == family]
        shared = set.intersection(*(set(curve.ratios) for curve in curves))
        for ratio in _middle(sorted(shared)):
            points = {c.task: next(p for p in c.points if p.ratio == ratio) for c in curves}
            svg = Markup(sweep_plots.elsewhere(points))
            found.append({"title": f"{family}, {100 * ratio:.4g}% of zeros", "svg": svg})
    return found


def _middle(ratios: list[float]) -> list[float]:
    """The ratio at the middle of a row, and the one three quarters along."""
    places = {len(ratios) // 2, 3 * len(ratios) // 4} if ratios else set()
    return [ratios[i] for i in sorted(places)]


def _layers(report: SweepReport) -> list[dict[str, Any]]:
    """For every task, where the zeros are at the point of its largest ratio that keeps enough."""
    found = []
    for curve in report.curves:
        point = curve.keeps(report.keep) or (curve.points[0] if curve.points else None)
        if point is None or len(set(point.layers.values())) < 2:
            continue  # a pattern of N:M is the same everywhere
        title = f"{curve.task}, {curve.family}, {100 * point.zeros:.4g}% of zeros"
        found.append({"title": title, "svg": Markup(sweep_plots.where(point))})
    return found


def _line(point: Point) -> list[str]:
    q = point.quality
    foreseen = "" if point.predicted is None else f"{point.predicted:.4f}"
    return [
        f"{point.task}, {point.pattern}",
        f"{100 * point.zeros:.2f}%",
        percent(q.kept.value),
        f"{percent(q.kept.low)} to {percent(q.kept.high)}",
        percent(q.kept_at_least),
        f"{q.kl_nats.value:.4f}",
        foreseen,
    ]


def _task(told: Any) -> str:
    files = " and ".join(dict.fromkeys(told["files"]))
    return (
        f"{files}: {told['calibration_windows']} windows to calibrate on, "
        f"{told['evaluation_windows']} to measure with; sha256 {told['fingerprint'][:16]}…"
    )


def _settings(report: SweepReport) -> list[tuple[str, str]]:
    return [
        ("Model", report.model),
        ("sha256 of its weights", str(report.settings["model"])),
        ("Windows, at most", str(report.settings["windows"])),
        ("Tokens in a window", str(report.settings["context"] or "what the model allows")),
        ("Seed", str(report.seed)),
        ("Points", str(report.count)),
    ]
