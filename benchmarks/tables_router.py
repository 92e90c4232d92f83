"""The section of RESULTS.md on the router, from results/router."""

from __future__ import annotations

from collections.abc import Sequence

import common


def section() -> str:
    """Markdown; empty where nothing was measured."""
    clinc, pairs, outcomes = (common.load(f"router/{n}") for n in ("clinc", "pairs", "outcomes"))
    draft = common.load("draft")
    found = [one for one in (clinc, pairs, outcomes, draft) if one is not None]
    if not found:
        return ""
    parts = [
        "## The router",
        "",
        "`bench_router.py`. In brackets 95% intervals.",
        *(_clinc(clinc) if clinc else []),
        *(_pairs(pairs) if pairs else []),
        *(_outcomes(outcomes) if outcomes else []),
        *(_draft(draft) if draft else []),
        "",
        _stamp(found),
    ]
    return "\n".join(parts)


def _clinc(told: common.Json) -> list[str]:
    head = ("CLINC150, 10 domains", "accuracy", "AUROC of out of scope", "p50", "p99")
    names = {"router": "sprue", "peer": "scikit-learn: TF-IDF of words, logistic regression"}
    rows = [
        (
            words,
            _share(told[name]["accuracy"]),
            f"{told[name]['auroc']:.3f}",
            f"{told[name]['p50_ms']:.2f} ms",
            f"{told[name]['p99_ms']:.2f} ms",
        )
        for name, words in names.items()
    ]
    mine = told["router"]
    return [
        "",
        f"{told['texts']:,} test requests and {told['outside']:,} out of scope; one core, both in "
        f"turns; trained in {told['train_seconds']:.0f} s. At its threshold the router calls "
        f"{mine['unknown_seen']:.1%} of those out of scope unknown, and "
        f"{mine['unknown_known']:.1%} of the others.",
        "",
        *common.table(head, rows),
    ]


def _pairs(told: common.Json) -> list[str]:
    joints = ", ".join(f"`{j!r}` {share:.0%}" for j, share in told["by_joint"].items())
    return [
        "",
        f"Two test requests of different domains in one, {told['pairs']:,} times: both needs found "
        f"{_share(told['both'])}, and nothing else {_share(told['exact'])}; single requests that "
        f"stay whole {_share(told['whole'])}; p50 {told['p50_ms']:.2f} ms. By what joins them: "
        f"{joints}.",
    ]


def _outcomes(told: common.Json) -> list[str]:
    names = {"mmlu": "MMLU", "gsm8k": "GSM8K"}
    head = ("RouteLLM's outcomes", "requests", "weak", "strong", "APGR", "RouteLLM's best")
    rows = []
    for name, words in names.items():
        one = told[name]
        low, high = one["interval"]
        mean = sum(one["apgr"]) / len(one["apgr"])
        rows.append(
            (
                words,
                f"{one['requests']:,}",
                f"{one['weak']:.1%}",
                f"{one['strong']:.1%}",
                f"{mean:.3f} ({low:.3f} to {high:.3f})",
                f"{one['published']:.3f}",
            )
        )
    return [
        "",
        "Gain of GPT-4 over Mixtral-8x7B foreseen by the request alone, five folds, the mean over "
        "two deals of them:",
        "",
        *common.table(head, rows),
    ]


def _draft(told: common.Json) -> list[str]:
    ratio = told["seconds"]["drafted"] / told["seconds"]["full"]
    return [
        "",
        f"The exact mode (`bench_draft.py`), base6m with itself at {told['bits']:g} bits as the "
        f"draft: {told['identical']} of {told['prompts']} greedy texts are the full model's own, "
        f"token by token; {told['tokens']:,} tokens in {told['passes']:,} passes of the full "
        f"model, {told['accepted'] / told['drafted']:.1%} of {told['drafted']:,} drafted tokens "
        "stayed. "
        f"Both are equally large here, so that it takes {ratio:.1f} times as long.",
    ]


def _share(told: Sequence[float]) -> str:
    value, low, high = told
    return f"{value:.1%} ({low:.1%} to {high:.1%})"


def _stamp(found: Sequence[common.Json]) -> str:
    machine = found[0]["stamp"]["machine"]
    return f"{machine['processor']}, {machine['cores']} cores, {found[0]['stamp']['commit']}."
