"""The section of RESULTS.md on experts, from the files in results/experts."""

from __future__ import annotations

from collections.abc import Iterable

import common


def section() -> str:
    """Markdown; empty where nothing was measured."""
    parts = [part for part in (_curve(), _distilled(), _ablations(), _layer()) if part]
    if not parts:
        return ""
    head = [
        "## Experts from dense layers: base6m",
        "",
        "Every feed-forward layer as 8 experts. Kept: the original's perplexity over the result's, "
        "the mean of four kinds of text, 40 windows of 256 tokens each, with a 95% interval. FLOPs "
        "are those of the feed-forward layers for a token, router included.",
        "",
    ]
    return "\n".join([*head, "\n\n".join(parts), "", _stamp()])


def _curve() -> str:
    found = [common.load(f"experts/curve-{k}") for k in range(1, 9)]
    rows = [
        [
            str(one["split"]["active"]),
            f"{100 * one['feed_forward']['share']:.1f}%",
            _between(one["kept"]),
            f"{one['kl_nats']['value']:.4f}",
            f"{one['cpu_seconds']:.0f}",
        ]
        for one in found
        if one is not None
    ]
    if not rows:
        return ""
    head = ["active", "FLOPs", "kept", "KL, nats", "CPU s"]
    return "\n".join(["### Closed form, without distillation", "", *common.table(head, rows)])


def _distilled() -> str:
    names = ("4", "2", "best")
    found = [common.load(f"experts/distillation-{name}") for name in names]
    rows = []
    for one in (one for one in found if one is not None):
        last = one["looks"][-1]
        rows.append(
            [
                str(one["split"]["active"]),
                f"{100 * one['feed_forward']['share']:.1f}%",
                f"{last['seconds'] / 60:.0f} min, {one['threads']} thread(s)",
                f"{one['cost']['cpu_seconds']:.0f}",
                str(last["step"]),
                _between(one["kept"]),
                f"{one['kl_nats']['value']:.4f}",
            ]
        )
    if not rows:
        return ""
    head = ["active", "FLOPs", "distilled for", "CPU s, all", "steps", "kept", "KL, nats"]
    return "\n".join(["### With distillation", "", *common.table(head, rows)])


def _ablations() -> str:
    first = common.load("experts/curve-2")
    found = [] if first is None else [{**first, "name": "nothing"}]
    while (one := common.load(f"experts/ablation-{len(found) - 1}")) is not None:
        found.append(one)
    if len(found) < 2:
        return ""
    rows = [
        [
            one["name"],
            _between(one["kept"]),
            f"{one['kl_nats']['value']:.4f}",
            *(
                f"{100 * sum(lost[i] for lost in one['lost']) / len(one['lost']):.1f}%"
                for i in (0, 1)
            ),
        ]
        for one in found
    ]
    head = ["2 of 8, changed", "kept", "KL, nats", "lost before repair", "after"]
    told = (
        "Lost: the share of the layers' output energy on the calibration text that is missing, the "
        "mean of the layers."
    )
    return "\n".join(["### What matters", "", *common.table(head, rows), "", told])


def _layer() -> str:
    one = common.load("experts/layer")
    if one is None:
        return ""
    rows = []
    for threads in (1, 2):
        timed = one[f"threads_{threads}"]
        ratio = timed["ratio"]
        rows.append(
            [
                str(threads),
                f"{1000 * timed['dense']:.1f}",
                f"{1000 * timed['experts']:.1f}",
                f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
            ]
        )
    head = ["threads", "dense, ms", "experts, ms", "dense over experts"]
    told = (
        f"A gated layer of {one['width']} x {one['neurons']}, seeded random weights, float32, "
        f"batch 1: {one['active']} of {one['experts']} experts and the dense layer, in turns."
    )
    return "\n".join(["### Wall-clock of one layer", "", told, "", *common.table(head, rows)])


def _mean(shares: Iterable[float]) -> str:
    every = [*shares]
    return f"{100 * sum(every) / len(every):.1f}%"


def _between(estimate: common.Json) -> str:
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.1f}% ({low:.1f} to {high:.1f})"


def _stamp() -> str:
    files = sorted((common.RESULTS / "experts").glob("*.json"))
    found = [one for path in files if (one := common.load(f"experts/{path.stem}")) is not None]
    stamps = [one["stamp"] for one in found]
    machine = stamps[0]["machine"]
    commits = ", ".join(sorted({stamp["commit"] for stamp in stamps}))
    dates = ", ".join(sorted({stamp["machine"]["date"][:10] for stamp in stamps}))
    return f"Measured {dates} at {commits}: {machine['processor']}, {machine['cores']} cores."


if __name__ == "__main__":
    print(section())
