"""The page of a replay: figures and plots laid into the template beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sprue import __version__
from sprue.fleet import plots
from sprue.fleet.fleet import FULL
from sprue.fleet.plots import figure, line_key, share, times
from sprue.fleet.replay_report import UNNAMED
from sprue.proof import page
from sprue.proof.form import asked, percent, size
from sprue.proof.intervals import CONFIDENCE
from sprue.proof.plots import legend_mark
from sprue.usage import words

if TYPE_CHECKING:
    from sprue.fleet.replay_report import Group, ReplayReport

_GROUP_HEADS = (
    *("capability", "needs", "tokens", "perplexity, full", "fleet", "ratio", "kept at least"),
    *("passed", "FLOPs saved", "to specialists", "of these handed over", "tokens by full"),
)
_MODEL_HEADS = ("model", "bytes", "FLOPs of a token", "of the full model's", "needs", "of all")
_RESERVE_HEADS = ("specialist", "threshold", "doubt", "mean of the last", "then written for it")
_SHOWN = 12  # capabilities that a plot shows
_SURE = f"{100 * CONFIDENCE:.0f}%"
_BAR = '<rect class="{}" x="0" y="0" width="12" height="12"/>'


def render(report: ReplayReport) -> str:
    """The page as HTML, with everything in it that it shows."""
    return page.template("replay.html", "sprue.fleet").render(
        css=Markup(page.file("report.css")),
        version=__version__,
        date=report.machine.date.replace("T", " ").replace("+00:00", " UTC"),
        **_verdict(report),
        statement=words.plain(report.statement),
        lead=_lead(report),
        tiles=_tiles(report),
        notes=_notes(report),
        unnamed=any(group.name == UNNAMED for group in report.groups),
        quality=_quality(report),
        group_heads=_GROUP_HEADS,
        groups=[_group(report, group) for group in (*report.groups, report.total)],
        compute=_compute(report),
        model_heads=_MODEL_HEADS,
        models=_models(report),
        reserve_heads=_RESERVE_HEADS,
        reserves=[_reserve(name, one) for name, one in report.reserves.items()],
        method=_method(report),
        used=_used(report),
        machine=page.machine_lines(report.machine),
    )


def _verdict(report: ReplayReport) -> dict[str, str]:
    if report.total.worse is None:
        return {"mood": "failed", "pill": "Too few requests to tell"}
    if report.passed:
        return {"mood": "passed", "pill": "Quality kept"}
    return {"mood": "failed", "pill": "Quality NOT kept"}


def _lead(report: ReplayReport) -> str:
    total = report.total
    told = (
        f"{words.many(report.requests, 'request')} of {_listed(report.log)} asked again, of "
        f"{words.plain(report.fleet)} and of its full model alone: "
        f"{share(total.to_specialists)} of the {words.many(total.needs, 'need')} went to "
        "specialists"
    )
    if total.to_specialists:
        told += f", and of {share(total.handed)} of these the full model took a part"
    return f"{told}."


def _listed(names: tuple[str, ...], most: int = 3) -> str:
    shown = ", ".join(words.plain(name) for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _tiles(report: ReplayReport) -> list[dict[str, str]]:
    total, cpu = report.total, report.cpu
    seconds = ("of the CPU seconds saved: too few requests were timed", "not known")
    if cpu is not None:
        span = f"{share(cpu.low)} to {share(cpu.high)}"
        seconds = (f"of the CPU seconds saved, {_SURE} interval {span}", share(cpu.value))
    least = "not known" if total.worse is None else percent(total.worse.at_least)
    tiles = [
        ("of the full model's FLOPs saved", share(total.saved)),
        seconds,
        (f"of the quality kept at least, {_SURE} sure; {asked(report.keep)} asked for", least),
        ("of the tokens still written by the full model", share(total.by_full)),
    ]
    return [{"name": name, "value": value} for name, value in tiles]


def _notes(report: ReplayReport) -> list[str]:
    notes = []
    if report.skipped:
        notes.append(f"{words.many(report.skipped, 'line')} of the log could not be read.")
    if report.unanswered:
        some = words.many(report.unanswered, "request")
        notes.append(f"{some} of the log without an answer: there is nothing to judge them by.")
    if report.total.worse is None:
        notes.append("An interval needs two requests or more, so nothing is proven.")
    return notes


def _quality(report: ReplayReport) -> list[dict[str, Any]]:
    return [*_ratios(report), *_curve(report)]


def _ratios(report: ReplayReport) -> list[dict[str, Any]]:
    known = [group for group in report.groups if group.worse is not None]
    some = [*known[:_SHOWN], report.total]
    rows = [
        plots.Row(words.named(g.name), g.worse.ratio, g.worse.at_most, g is report.total)
        for g in some
        if g.worse is not None
    ]
    if not rows:
        return []
    most = f" The {_SHOWN} capabilities that take most." if len(known) > _SHOWN else ""
    caption = (
        f"Perplexity of the fleet over the full model's. Dot: measured, with its {_SURE} interval. "
        f"Upright bar: the bound that the verdict rests on.{most}"
    )
    below = "fleet's perplexity over the full model's, logarithmic"
    legend = {
        "as good as the full model": plots.upright_key("rule"),
        f"allowed: {times(1 / report.keep)}": plots.upright_key("rule dashed"),
    }
    title = "How much less likely the fleet finds the answers"
    return [figure(title, caption, plots.ratios(title, rows, 1 / report.keep, below), legend)]


def _curve(report: ReplayReport) -> list[dict[str, Any]]:
    worse = report.total.worse
    if not report.curve or worse is None:
        return []
    caption = (
        "From no need handed over to all that specialists got, the ones of most doubt first. Band: "
        f"{_SURE} interval. Each point is a setting of the thresholds."
    )
    legend = {
        "the fleet as it was run": legend_mark(1),
        "as good as the full model": line_key("rule"),
        f"allowed: {times(1 / report.keep)}": line_key("rule dashed"),
    }
    drawing = plots.curve(report.curve, (report.total.saved, worse), 1 / report.keep)
    return [figure("What handing over costs and buys", caption, drawing, legend)]


def _group(report: ReplayReport, group: Group) -> dict[str, Any]:
    """A line of the table: cells, with a small second line where there is an interval."""
    worse, passed = group.worse, group.passed(report.keep)
    ratio, least, span = "", "", ""
    if worse is not None:
        ratio, least = times(worse.ratio.value), percent(worse.at_least)
        span = f"{times(worse.ratio.low)} to {times(worse.ratio.high)}"
    return {
        "name": words.named(group.name),
        "total": group is report.total,
        "before": (
            f"{group.needs:,}",
            f"{group.tokens:,}",
            *(f"{value:,.3f}" for value in group.perplexity),
        ),
        "ratio": ratio,
        "span": span,
        "least": least,
        "mood": {True: "passed", False: "failed", None: "soft"}[passed],
        "passed": {True: "yes", False: "no", None: "too few"}[passed],
        "after": (
            share(group.saved),
            share(group.to_specialists),
            share(group.handed) if group.to_specialists else "",
            share(group.by_full),
        ),
    }


def _compute(report: ReplayReport) -> list[dict[str, Any]]:
    return [*_parts(report), *_latency(report)]


def _parts(report: ReplayReport) -> list[dict[str, Any]]:
    if not report.parts:
        return []
    caption = (
        "Shares of what the full model alone computes. Cutting: what specialists save on the needs "
        "they got. Router and reserve: what deciding and handing over cost. Unsplit prompts: what "
        "the full model reads more where needs reach it together."
    )
    legend = {
        name: plots.key(_BAR.format(kind))
        for name, kind in {
            "the full model's": "bar outside",
            "the fleet's": "bar",
            "saved": "saves",
            "spent more": "costs",
        }.items()
    }
    return [figure("From the full model to the fleet", caption, plots.waterfall(report), legend)]


def _latency(report: ReplayReport) -> list[dict[str, Any]]:
    found = []
    for name, quantile in (("p50", 0.5), ("p95", 0.95)):
        full, fleet = (report.latency(which, quantile) for which in (FULL, "fleet"))
        if full is not None and fleet is not None:
            found.append((name, full, fleet))
    if not found:
        return []
    count = words.many(len(report.times), "request")
    caption = (
        f"Of {count} served step by step by both in turn, a request at a time: seconds by the "
        "clock for the whole answer. p50: half of them take no longer; p95: 19 of 20."
    )
    return [figure("Latency", caption, plots.latencies(found))]


def _models(report: ReplayReport) -> list[tuple[str, ...]]:
    full = report.models.get(FULL, {}).get("flops")
    every = sum(one["needs"] for one in report.models.values())
    return [
        (
            words.named(name),
            size(one["bytes"]),
            words.amount(one["flops"]),
            share(one["flops"] / full) if full else "",
            f"{one['needs']:,.0f}",
            share(one["needs"] / every) if every else "",
        )
        for name, one in report.models.items()
    ]


def _reserve(name: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    threshold, hold = told["threshold"], told["hold"]
    shown = {"never": "never called", "always": "always called"}
    return (
        words.named(name),
        f"{threshold:.4g}" if isinstance(threshold, float | int) else shown[threshold],
        str(told["doubt"]),
        words.many(told["over"], "step"),
        "the rest of the answer" if hold is None else words.many(hold, "token"),
    )


def _method(report: ReplayReport) -> list[str]:
    told = [
        "Both get every answer of the log token by token (teacher forcing), and say how likely "
        "they find the token that truly follows: the likelier, the better. No answer is written "
        "freely and no one grades it, so another answer that is as right counts for nothing.",
        "The full model is asked every need by itself, as the log holds it, which is the best that "
        "it can do. The fleet gets the text of the whole request, and has to take it apart and "
        "find who answers; once the full model had to help, it keeps the conversation.",
        "Ratio: the fleet's perplexity over the full model's, both over the full model's tokens. "
        "Its interval is Student's t over requests, since the needs of one depend on one another. "
        f"Kept is its inverse: passed where the one-sided lower bound, with {_SURE} confidence, "
        f"reaches {asked(report.keep)}. The verdict is that of all answers together.",
        "FLOPs are counted from the shapes of the matrices, attention included, for all that the "
        "fleet computes: specialists, router, and the full model wherever it is called. The "
        "router's are in the last line of the table, and not in those of single capabilities.",
    ]
    return [*told, _timing(report)]


def _timing(report: ReplayReport) -> str:
    if not report.times:
        return "Nothing was served by the clock: --timed N serves N requests."
    some = words.many(len(report.times), "request")
    return (
        f"CPU seconds and latency are of a sample: {some} drawn with the seed and served step by "
        "step, a token at a time with keys and values cached, by both in turn. What is written is "
        "the answer of the log, so both take as many steps. On another machine, or with many "
        "requests at once, seconds are others; FLOPs are the same."
    )


def _used(report: ReplayReport) -> list[tuple[str, str]]:
    found = [
        ("Log", _listed(report.log, 5)),
        ("Fleet", words.plain(report.fleet)),
        ("Asked for", asked(report.keep)),
        ("Requests", f"{report.requests:,}"),
        ("Of several needs", f"{report.several:,}"),
    ]
    if report.split is not None:
        found.append(("Taken apart into as many", share(report.split)))
    if report.right is not None:
        found.append(("Went where the log says", share(report.right)))
    return [
        *found,
        ("Without an answer", f"{report.unanswered:,}"),
        ("Lines not read", f"{report.skipped:,}"),
        ("Timed", f"{len(report.times):,}"),
    ]
