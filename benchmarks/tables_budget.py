"""The section of RESULTS.md on one budget against the best uniform choice, from results/budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import common
from bench_budget import SIZES


def section() -> str:
    """Empty where nothing was measured."""
    rows = [row for size in SIZES for row in _rows(_points(size), size)]
    if not rows:
        return ""
    head = ["budget, bytes", "zeros", "mix", "KL, nats", "best uniform", "its KL", "ratio of KL"]
    return "\n".join(
        [
            "## One budget over bits, rank and zeros: base6m",
            "",
            "What the solver picks against the best of the uniform choices (all linears the same "
            "bits, rank and pattern; the embedding's bits tried too) at equal bytes, carried out "
            "by the same walk: `bench_budget.py`. Excess perplexity with 95% intervals, 20 windows "
            "of 256 tokens of each kind of text; KL in nats per token.",
            "",
            *common.table(head, rows),
            "",
            "### Every uniform choice",
            "",
            *_every(),
        ]
    )


def _points(size: int) -> list[common.Json]:
    names = sorted(path.stem for path in (common.RESULTS / "budget").glob(f"{size}-*.json"))
    return [point for name in names if (point := common.load(f"budget/{name}")) is not None]


def _rows(points: Sequence[common.Json], size: int) -> list[list[str]]:
    """Free, and with half of the weights zero."""
    rows = []
    for mix in (p["mix"] for p in points if "mix" in p):
        mine = next(p for p in points if p.get("mix") == mix)
        least = mix["sparsity"] or 0.0
        others = [p for p in points if "uniform" in p and _share(p) >= least]
        if not others:
            continue
        best = min(others, key=lambda p: float(p["kl_nats"]["value"]))
        ratio = mine["kl_nats"]["value"] / best["kl_nats"]["value"]
        rows.append(
            [
                f"{size:,}",
                f"{100 * least:.0f}% or more" if least else "any",
                _excess(mine),
                f"{mine['kl_nats']['value']:.4f}",
                f"{_words(best['uniform'])}: {_excess(best)}",
                f"{best['kl_nats']['value']:.4f}",
                f"{ratio:.2f}",
            ]
        )
    return rows


def _every() -> list[str]:
    rows = []
    for size in SIZES:
        found = [p for p in _points(size) if "uniform" in p]
        for p in sorted(found, key=lambda p: float(p["kl_nats"]["value"])):
            bits = f"{p['bits_per_weight']['linears']:.3f}"
            kl = f"{p['kl_nats']['value']:.4f}"
            rows.append(
                [f"{size:,}", _words(p["uniform"]), bits, f"{p['bytes']:,}", _excess(p), kl]
            )
    head = ["budget, bytes", "choice", "bits, linears", "bytes", "excess (95%)", "KL, nats"]
    return common.table(head, rows)


def _share(point: common.Json) -> float:
    text: str = point["uniform"]["zeros"]
    if text.endswith("%"):
        return float(text[:-1]) / 100
    return 0.0 if text == "none" else 0.5


def _words(uniform: Mapping[str, object]) -> str:
    zeros = "no zeros" if uniform["zeros"] == "none" else f"{uniform['zeros']} zeros"
    return f"{zeros}, rank {uniform['rank']}, embedding {uniform['embedding']} bits"


def _excess(point: common.Json) -> str:
    e = point["excess"]
    return f"{100 * e['value']:.2f}% ({100 * e['low']:.2f} to {100 * e['high']:.2f})"
