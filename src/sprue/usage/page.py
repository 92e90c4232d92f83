"""The page of a ranking: figures and plots laid into the template beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sprue import __version__
from sprue.proof import page
from sprue.proof.plots import legend_mark
from sprue.usage import plots, table, words
from sprue.usage.store import UNITS
from sprue.usage.totals import MEASURES

if TYPE_CHECKING:
    from sprue.usage.report import RankReport


def render(report: RankReport) -> str:
    """The page as HTML, with everything in it that it shows."""
    return page.template("rank.html", "sprue.usage").render(
        css=Markup(page.file("report.css")),
        version=__version__,
        read=table.read(report),
        headline=_headline(report),
        lead=_lead(report),
        tiles=_tiles(report),
        by=report.by,
        plots=_plots(report),
        heads=("capability", *table.HEADS),
        rows=table.capability_rows(report),
        tenant_heads=("tenant", *table.HEADS, "most for"),
        tenants=_tenants(report),
        tenant_count=report.tenant_count,
        needs=_needs(report),
        need_heads=(*table.NEED_HEADS, "for example"),
        looked=report.looked,
        model_heads=("model", *table.HEADS),
        models=[
            (words.named(m.name), *table.row(report, m.total))
            for m in report.models[: report.asked.top]
        ],
        notes=report.notes,
        left_out=report.left_out,
        settings=_settings(report),
    )


def _headline(report: RankReport) -> str:
    """The first part of the statement."""
    return report.statement.partition("; ")[0].rstrip(".")


def _lead(report: RankReport) -> str:
    rest = report.statement.partition("; ")[2]
    told = [f"{rest[:1].upper()}{rest[1:]}"] if rest else []
    return " ".join([*told, f"{table.read(report)}."])


def _tiles(report: RankReport) -> list[dict[str, str]]:
    whole = report.whole
    tiles = [
        ("requests", f"{whole.requests:,}"),
        ("tokens", words.amount(whole.tokens) if whole.tokens else "not told"),
        ("FLOPs", words.amount(whole.flops) if whole.flops else "not told"),
        (f"of the {report.by} is of no known capability", words.percent(report.of(report.unknown))),
    ]
    return [{"name": name, "value": value} for name, value in tiles]


def _plots(report: RankReport) -> list[dict[str, Any]]:
    measures = {f"of the {m}": MEASURES.index(m) for m in plots.measures(report)}
    stack = {name: i for i, (name, _) in enumerate(plots.layers(report))}
    shown = [
        _plot(
            "Shares",
            "Of the whole log, each capability's part; the figure is that of the first bar.",
            plots.ranking(report),
            measures,
        )
    ]
    if report.capabilities:
        caption = "What the first so many capabilities take together; the line is all of them."
        shown.append(_plot("How few cover how much", caption, plots.covered(report)))
    if report.slots:
        caption = f"By {UNITS[report.unit]}; {report.by} of each capability."
        shown.append(_plot("Over time", caption, plots.over_time(report), stack))
    if report.tenant_count > 1:
        caption = f"Percent of the {report.by} of each tenant, the largest tenants first."
        shown.append(_plot("Tenants", caption, plots.whose(report)))
    return shown


def _plot(
    title: str, caption: str, drawing: str, legend: dict[str, int] | None = None
) -> dict[str, Any]:
    keys = [{"mark": Markup(legend_mark(i)), "name": n} for n, i in (legend or {}).items()]
    return {"title": title, "caption": caption, "svg": Markup(drawing), "legend": keys}


def _tenants(report: RankReport) -> list[tuple[str, ...]]:
    if report.tenant_count < 2:
        return []
    return [
        (words.named(one.name), *table.row(report, one.total), table.most_for(report, one))
        for one in report.tenants
    ]


def _needs(report: RankReport) -> dict[str, Any] | None:
    if not report.found:
        return None
    caption = "Requests that ask for much the same, and the words that tell them from all others."
    return {
        "plot": _plot("Sizes", caption, plots.news(report)),
        "rows": [
            (told, [words.plain(example) for example in need.examples])
            for told, need in zip(table.need_rows(report), report.found, strict=True)
        ],
    }


def _settings(report: RankReport) -> Sequence[tuple[str, str]]:
    asked, log = report.asked, report.log
    files = [words.plain(name) for name in log.files]
    shown = ", ".join(files[:5]) + (f" and {len(files) - 5:,} more" if len(files) > 5 else "")
    settings = [
        ("Files", shown),
        ("Ranked by", report.by),
        ("Tenants", ", ".join(map(words.named, asked.tenants)) or "all"),
        ("Since", "the start" if asked.since is None else words.moment(asked.since)),
        ("Until", "the end" if asked.until is None else words.moment(asked.until)),
        ("Seed", str(asked.seed)),
    ]
    flops = ", ".join(f"{words.plain(m)} {value:.3g}" for m, value in asked.flops.items())
    return [*settings, ("FLOPs of a token", flops)] if flops else settings
