"""What a ranking found, as lines of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sprue.usage import words
from sprue.usage.store import UNITS
from sprue.usage.totals import MEASURES, Ranked, Total

if TYPE_CHECKING:
    from sprue.usage.report import RankReport

HEADS = (
    *("of compute", "of tokens", "of requests"),
    *("FLOPs", "tokens", "requests", "CPU s", "escalated"),
)
NEED_HEADS = ("new need", "requests", "of the unknown", "of all")

_NUMBERS = range(1, len(HEADS) + 1)
_NAME, _NEED, _EXAMPLE = 28, 40, 60  # characters in a terminal
_TENANTS = 10  # that a terminal shows


def render(report: RankReport) -> str:
    """For a terminal."""
    parts = [report.statement, _capabilities(report), _tenants(report), _needs(report)]
    parts += ["\n".join(f"note: {note}" for note in report.notes)]
    parts += ["\n".join(f"left out: {one}" for one in report.left_out)]
    return "\n\n".join(part for part in [*parts, read(report)] if part)


def read(report: RankReport) -> str:
    """What was read, in a line."""
    told = words.many(report.whole.requests, "request")
    told += f" in {words.many(len(report.log.files), 'file')}"
    if report.span is None:
        return told
    low, high = (words.moment(at) for at in report.span)
    return f"{told}, from {low} to {high} UTC"


def row(report: RankReport, total: Total) -> tuple[str, ...]:
    """Figures, as HEADS say; empty where the whole log tells nothing of it."""
    whole = report.whole
    return (
        *(words.percent(total.share(whole, m)) if whole.by(m) else "" for m in MEASURES),
        words.amount(total.flops) if whole.flops else "",
        words.amount(total.tokens) if whole.tokens else "",
        f"{total.requests:,}",
        f"{total.cpu_seconds:,.0f}" if whole.cpu_microseconds else "",
        words.percent(total.escalated / (total.steps or 1)) if whole.steps else "",
    )


def capability_rows(report: RankReport) -> list[tuple[str, ...]]:
    """A name and its figures: those that are told, the rest together, and what is unknown."""
    rows = [(words.named(one.name), *row(report, one.total)) for one in report.first]
    more = len(report.capabilities) - len(report.first)
    if more:
        rows.append((f"({more:,} more)", *row(report, report.rest)))
    if report.unknown.requests:
        rows.append((words.UNKNOWN, *row(report, report.unknown)))
    return rows


def most_for(report: RankReport, tenant: Ranked) -> str:
    """The known capability that takes the largest part of a tenant, and that part."""
    first = next((one for one in tenant.inside if one.name is not None), tenant.inside[0])
    return f"{words.named(first.name)} {words.percent(first.total.share(tenant.total, report.by))}"


def need_rows(report: RankReport) -> list[tuple[str, ...]]:
    """New needs, as NEED_HEADS say."""
    rows: list[tuple[str, ...]] = []
    for need in report.found:
        count = report.requests_of(need)
        unknown, whole = report.unknown.requests, report.whole.requests
        shares = words.percent(count / unknown), words.percent(count / whole)
        rows.append((words.plain(", ".join(need.words)) or "(no words)", f"{count:,}", *shares))
    return rows


def _capabilities(report: RankReport) -> str:
    sparks = {
        words.named(one.name): words.spark(report.over_time(one.name)) for one in report.first
    }
    sparks[words.UNKNOWN] = words.spark(report.over_time(None))
    rows = [(*_cut(told), sparks.get(told[0], "")) for told in capability_rows(report)]
    heads = ("capability", *HEADS, f"by {UNITS[report.unit]}")
    return words.aligned(heads, rows, _NUMBERS)


def _tenants(report: RankReport) -> str:
    if report.tenant_count < 2:
        return ""
    some = report.tenants[:_TENANTS]
    rows = [
        (*_cut((words.named(one.name), *row(report, one.total))), most_for(report, one))
        for one in some
    ]
    more = report.tenant_count - len(some)
    told = f"\n({more:,} more)" if more else ""
    return words.aligned(("tenant", *HEADS, "most for"), rows, _NUMBERS) + told


def _needs(report: RankReport) -> str:
    if not report.unknown.requests:
        return ""
    if not report.needs.found:
        return f"No new needs. {report.looked}"
    examples = [words.clipped(words.plain(n.examples[0]), _EXAMPLE) for n in report.found]
    rows = [
        (words.clipped(told[0], _NEED), *told[1:], example)
        for told, example in zip(need_rows(report), examples, strict=True)
    ]
    table = words.aligned((*NEED_HEADS, "for example"), rows, range(1, 4))
    more = len(report.needs.found) - len(rows)
    return f"{table}\n{f'({more:,} more) ' if more else ''}{report.looked}"


def _cut(told: Sequence[str]) -> tuple[str, ...]:
    return (words.clipped(told[0], _NAME), *told[1:])
