"""Every figure of a report as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sprue.proof.energy import Energy
from sprue.proof.form import sentence
from sprue.proof.intervals import CONFIDENCE, Estimate
from sprue.proof.quality import Quality, Verdict

if TYPE_CHECKING:
    from sprue.proof.report import Costs, Report

_ESTIMATES = (
    "perplexity_original",
    "perplexity_result",
    "excess",
    "kept",
    "kl_nats",
    "top1_agreement",
)


def of(report: Report, full: bool = False) -> dict[str, Any]:
    """The figures; nothing but what JSON has.

    Args:
        report: to be told.
        full: with the figures of every window, and with sprue.json of the result.
    """
    sizes = dict(zip(("original", "result"), report.nbytes, strict=True))
    names = [sample.name for sample in report.samples]
    found = {
        "original": report.original,
        "result": report.result,
        "verdict": _verdict(report),
        **of_quality(report.quality),
        "bytes": sizes,
        "bits_per_weight": dict(report.bits_per_weight),
        "zeros": asdict(report.zeros) if report.zeros else None,
        **_costs(report.costs),
        "files": {
            name: {**of_quality(quality), "windows": len(sample.original)}
            for name, quality, sample in zip(names, report.files, report.samples, strict=True)
        },
        "confidence": CONFIDENCE,
        "data": {
            "files": list(report.paths),
            "fingerprint": report.fingerprint,
            "context": report.context,
            "windows": sum(len(sample.original) for sample in report.samples),
        },
        "seed": report.seed,
        "device": report.device,
        "fallbacks": list((report.artifact or {}).get("fallbacks", [])),
        "machine": asdict(report.machine),
    }
    return found | _details(report) if full else found


def verdict(report: Report) -> dict[str, Any]:
    """What sprue.json keeps: the verdict, what it rests on, and the text it was found on."""
    kept = ("perplexity", "kl_nats", "top1_agreement", "data", "seed")
    figures = of(report)
    return _verdict(report) | {name: figures[name] for name in kept}


def _verdict(report: Report) -> dict[str, Any]:
    return of_verdict(report.verdict, report.quality)


def of_verdict(verdict: Verdict, quality: Quality) -> dict[str, Any]:
    """What was asked for, and whether it was met; None where nothing was."""
    return {
        "passed": verdict.passed if verdict.keep is not None else None,
        "keep": verdict.keep,
        "kept_at_least": verdict.kept_at_least,
        "confidence": verdict.confidence,
        "statement": sentence(verdict, quality),
    }


def _details(report: Report) -> dict[str, Any]:
    windows = {
        s.name: {
            "nll_original": s.original.tolist(),
            "nll_result": s.result.tolist(),
            "kl_nats": s.kl.tolist(),
            "top1_agreement": s.agreement.tolist(),
        }
        for s in report.samples
    }
    return {"windows": windows, "artifact": report.artifact}


def of_quality(quality: Quality) -> dict[str, Any]:
    """The figures of one file, or of all, with their intervals."""
    return {
        "perplexity": {
            "original": quality.perplexity_original.value,
            "result": quality.perplexity_result.value,
        },
        "excess": quality.excess.value,
        "kept": quality.kept.value,
        "kept_at_least": quality.kept_at_least,
        "kl_nats": quality.kl_nats.value,
        "top1_agreement": quality.top1_agreement.value,
        "intervals": {
            name: [getattr(quality, name).low, getattr(quality, name).high] for name in _ESTIMATES
        },
    }


def _costs(costs: Costs | None) -> dict[str, Any]:
    keys = ("tokens_per_second", "peak_rss_bytes", "energy")
    if costs is None:
        return dict.fromkeys(keys)
    speed, memory = costs.speed, costs.memory
    return {
        "tokens_per_second": _pair(
            [speed.original.tokens_per_second, speed.result.tokens_per_second], speed.ratio
        ),
        "prefill_tokens_per_second": _pair(
            [speed.original.prefill_tokens_per_second, speed.result.prefill_tokens_per_second],
            speed.prefill_ratio,
        ),
        "cpu_seconds_per_token": _pair(
            [speed.original.cpu_seconds, speed.result.cpu_seconds], speed.cpu_ratio
        ),
        "timing": {
            "prompt_tokens": speed.prompt_tokens,
            "new_tokens": speed.new_tokens,
            "rounds": speed.rounds,
        },
        "peak_rss_bytes": _pair([m.peak_bytes for m in memory]),
        "baseline_rss_bytes": _pair([m.baseline_bytes for m in memory]),
        "peak_device_bytes": _pair([m.device_bytes for m in memory]),
        "memory_dtype": _pair([m.dtype for m in memory]),
        "energy": _energy(costs.energy),
    }


def _energy(energy: tuple[Energy, Energy] | None) -> dict[str, Any] | None:
    if energy is None:
        return None
    return {
        "source": energy[0].source,
        "joules_per_token": _pair([list(e.joules_per_token) for e in energy]),
        "constants": _pair([e.constants for e in energy]),
    }


def _pair(values: Sequence[Any], ratio: Estimate | None = None) -> dict[str, Any]:
    both = dict(zip(("original", "result"), values, strict=True))
    if ratio is None:
        return both
    interval = {"low": ratio.low, "high": ratio.high, "confidence": ratio.confidence}
    return {**both, "ratio": ratio.value, "interval": interval}
