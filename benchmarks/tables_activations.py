"""The section of RESULTS.md on activation sparsity, from results/activations.

python benchmarks/tables_activations.py
"""

from __future__ import annotations

import common

_METHODS = {
    "even": "the same share everywhere",
    "greedy": "TEAL's greedy",
    "best-shift": "ours",
}
_PARTS = {
    "even": "the same share everywhere, one threshold a matrix",
    "even-shift": "the same, matrices aimed at the original's outputs",
    "greedy": "TEAL's greedy within each block",
    "greedy-shift": "the same, matrices aimed",
    "uncorrected": "shared out over all matrices by predicted damage",
    "best": "the same, corrected by measured divergence",
    "best-shift": "the same, matrices aimed: ours",
}


def section() -> str:
    """Markdown; empty where nothing was measured."""
    parts = [part for part in (_quality(), _ablation(), _speed()) if part]
    return "\n".join(["## Activation sparsity", "", *parts]).rstrip() + "\n" if parts else ""


def _quality() -> str:
    found = _points()
    if not found:
        return ""
    shown = {m: name for m, name in _METHODS.items() if any(k[0] == m for k in found)}
    rows = [
        [f"{target}%", *(_excess(found.get((method, target))) for method in shown)]
        for target in sorted({target for _, target in found})
    ]
    settings = next(iter(found.values()))["settings"]
    return "\n".join(
        [
            "base6m: excess perplexity (95% interval) by the share of weights that meet a zero; "
            f"thresholds set on {settings['windows']} windows of {settings['context']} tokens, "
            f"measured on {settings['evaluated']} windows of each of four texts.",
            "",
            *common.table(["zeros", *shown.values()], rows),
            "",
        ]
    )


def _ablation() -> str:
    found = _points()
    rows = [
        [name, _excess(one), f"{one['kl_nats']['value']:.4f}", f"{100 * one['met']:.1f}%"]
        for method, name in _PARTS.items()
        if (one := found.get((method, 50))) is not None
    ]
    if len(rows) < 2:
        return ""
    head = ["what helps, at 50%", "excess", "divergence, nats per token", "zeros, calibration"]
    return "\n".join([*common.table(head, rows), ""])


def _speed() -> str:
    found = common.load("activations/speed")
    if found is None:
        return ""
    rows = [
        [
            row["case"],
            row["stored"],
            f"{100 * row['zeros']:.0f}%",
            str(row["threads"]),
            f"{1e3 * row['dense_seconds']:.1f}",
            f"{1e3 * row['ours_seconds']:.1f}",
            _ratio(row["ratio"]),
            _ratio(row["cpu_ratio"]),
        ]
        for row in found["rows"]
    ]
    head = ["case", "columns in", "zeros", "threads", "dense, ms", "ours, ms", "ratio", "CPU ratio"]
    settings = found["settings"]
    return "\n".join(
        [
            f"One gated feed-forward layer ({settings['width']} x {settings['inner']}) and one "
            "product of that shape at batch 1, over torch's dense float32, in turns: the median of "
            f"{settings['rounds']} paired ratios (interval of the sign test), above 1 is faster. "
            "The machine was shared: see the CPU ratio too.",
            "",
            *common.table(head, rows),
            "",
        ]
    )


def _points() -> dict[tuple[str, int], common.Json]:
    """(method, percent) -> what was measured."""
    names = sorted(path.stem for path in (common.RESULTS / "activations/quality").glob("*.json"))
    found = {}
    for name in names:
        method, _, percent = name.rpartition("-")
        content = common.load(f"activations/quality/{name}")
        if content is not None:
            found[method, int(percent)] = content
    return found


def _excess(one: common.Json | None) -> str:
    if one is None:
        return ""
    e = one["excess"]
    return f"{100 * e['value']:.2f}% ({100 * e['low']:.2f} to {100 * e['high']:.2f})"


def _ratio(e: common.Json) -> str:
    return f"{e['value']:.2f} ({e['low']:.2f} to {e['high']:.2f})"


if __name__ == "__main__":
    print(section(), end="")
