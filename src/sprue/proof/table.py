"""The figures of both models beside one another, as lines of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sprue.proof.energy import MODELLED, Energy
from sprue.proof.form import percent, signed, size
from sprue.proof.intervals import Estimate
from sprue.proof.memory import Memory
from sprue.proof.quality import Quality

if TYPE_CHECKING:
    from sprue.proof.report import Costs, Report


@dataclass(frozen=True)
class Row:
    """A line of the table, ready to be shown.

    Attributes:
        name: the figure.
        original, result: of both models; empty where it has no meaning for one of them.
        change: their ratio or difference.
        interval: of the figure before it, in words.
        note: what to know about it.
    """

    name: str
    original: str
    result: str
    change: str = ""
    interval: str = ""
    note: str = ""


def rows(report: Report) -> list[Row]:
    """What is shown of a report in its table."""
    a, b = report.nbytes
    first = Row("bytes of all tensors", size(a), size(b), smaller(a, b))
    return [
        first,
        *_bits_rows(report),
        *_zeros_rows(report),
        *_quality_rows(report),
        *_cost_rows(report.costs),
    ]


def text(report: Report) -> str:
    """The table for a terminal."""
    heads = ("", "original", "result", "change")
    lines = [heads, *((r.name, r.original, r.result, r.change) for r in rows(report))]
    wide = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        f"{name:<{wide[0]}}  {a:>{wide[1]}}  {b:>{wide[2]}}  {change}".rstrip()
        for name, a, b, change in lines
    )


def smaller(a: int, b: int) -> str:
    """How much smaller b is than a."""
    if a == b:
        return "the same size"
    return f"{a / b:.2f}× smaller" if b < a else f"{b / a:.2f}× larger"


def _bits_rows(report: Report) -> list[Row]:
    known = report.bits_per_weight
    notes = {
        "linears": "scales, factors and all else that decoding needs included",
        "file": "embeddings, head and norms included",
    }
    names = {"linears": "bits per weight, linears", "file": "bits per weight, whole file"}
    return [
        Row(names[what], "", f"{known[what]:.3f}", note=note)
        for what, note in notes.items()
        if known[what] is not None
    ]


def _zeros_rows(report: Report) -> list[Row]:
    if report.zeros is None:
        return []
    note = "counted while the text was read; their columns are not read where one token is written"
    return [Row("linears' weights that meet a zero", "", percent(report.zeros.share), note=note)]


def _quality_rows(report: Report) -> list[Row]:
    quality = report.quality
    several = len(report.files) > 1
    rows = [_perplexity_row("perplexity" + (", mean of the files" if several else ""), quality)]
    if several:
        named = zip(report.samples, report.files, strict=True)
        rows += [_perplexity_row(f"perplexity, {s.name}", q) for s, q in named]
    return [
        *rows,
        Row("quality kept", "", percent(quality.kept.value), "", _between(quality.kept, percent)),
        Row(
            "divergence, nats per token",
            "",
            f"{quality.kl_nats.value:.4f}",
            "",
            _between(quality.kl_nats, "{:.4f}".format),
        ),
        Row(
            "same likeliest token",
            "",
            percent(quality.top1_agreement.value),
            "",
            _between(quality.top1_agreement, percent),
        ),
    ]


def _perplexity_row(name: str, quality: Quality) -> Row:
    return Row(
        name,
        f"{quality.perplexity_original.value:.3f}",
        f"{quality.perplexity_result.value:.3f}",
        signed(quality.excess.value),
        _between(quality.excess, signed),
    )


def _cost_rows(costs: Costs | None) -> list[Row]:
    if costs is None:
        return []
    speed, (a, b) = costs.speed, costs.memory
    rows = [
        _speed_row(
            "tokens per second, writing",
            speed.original.tokens_per_second,
            speed.result.tokens_per_second,
            speed.ratio,
        ),
        _speed_row(
            "tokens per second, reading",
            speed.original.prefill_tokens_per_second,
            speed.result.prefill_tokens_per_second,
            speed.prefill_ratio,
        ),
        Row(
            "CPU seconds per 1,000 tokens",
            f"{1000 * speed.original.cpu_seconds:.2f}",
            f"{1000 * speed.result.cpu_seconds:.2f}",
            f"{speed.cpu_ratio.value:.2f}×",
            _between(speed.cpu_ratio, "{:.2f}×".format),
            "writing",
        ),
        Row(
            "peak resident memory",
            size(a.peak_bytes),
            size(b.peak_bytes),
            f"{b.peak_bytes / a.peak_bytes:.2f}×",
            note=f"of these, {size(a.baseline_bytes)} and {size(b.baseline_bytes)} are Python and "
            "its libraries",
        ),
    ]
    return rows + _device_rows(costs.memory) + _energy_rows(costs.energy)


def _device_rows(memory: tuple[Memory, Memory]) -> list[Row]:
    a, b = (m.device_bytes for m in memory)
    if a is None or b is None:
        return []
    return [Row("peak memory of the accelerator", size(a), size(b), f"{b / a:.2f}×")]


def _speed_row(name: str, a: float, b: float, ratio: Estimate) -> Row:
    return Row(
        name,
        f"{a:,.0f}" if a >= 100 else f"{a:.1f}",
        f"{b:,.0f}" if b >= 100 else f"{b:.1f}",
        f"{ratio.value:.2f}×",
        _between(ratio, "{:.2f}×".format),
    )


def _energy_rows(energy: tuple[Energy, Energy] | None) -> list[Row]:
    if energy is None:
        return []
    source = energy[0].source
    note = "modelled, not measured" if source == MODELLED else f"read from {source.upper()}"
    a, b = (e.joules_per_token for e in energy)
    change = f"{sum(b) / sum(a):.2f}×"
    return [Row("joules per token", _joules(a), _joules(b), change, note=note)]


def _joules(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.3g}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _between(estimate: Estimate, form: Callable[[float], str]) -> str:
    return f"{form(estimate.low)} to {form(estimate.high)}"
