"""The section of RESULTS.md on fleets, from results/fleet."""

from __future__ import annotations

import common

_PARTS = {
    "cutting": "specialists in the place of the full model",
    "router": "the router",
    "reserve": "what the full model writes for specialists",
    "prompts_of_unsplit_requests": "longer prompts, where several needs are not told apart",
}
_SHAPE = "layers", "heads", "neurons"


def section() -> str:
    """Markdown; empty where nothing was measured."""
    told = common.load("fleet/demo")
    if told is None:
        return ""
    replay = told["replay"]
    parts = [
        "## A fleet of specialists",
        "",
        "`make demo-fleet`: base6m cut and taught for the three capabilities that take most of a "
        f"log of {replay['requests']:,} requests ({replay['several_needs']} with several needs, "
        f"{_unknown(told):.0%} of no known capability), and the same log asked of the fleet and of "
        "the full model. Ratio: perplexity of the true answers, the fleet's over the full model's. "
        f"**{replay['statement']}.**",
        "",
        *_groups(replay),
        "",
        *_specialists(told),
        "",
        *_shares(replay),
        "",
        _stamp(told),
    ]
    return "\n".join(parts)


def _unknown(told: common.Json) -> float:
    return float(told["texts"]["mix"]["wikitext2"])


def _groups(replay: common.Json) -> list[str]:
    head = (
        *("capability", "needs", "ratio (95%)", "kept at least", "FLOPs saved"),
        *("to specialists", "handed over"),
    )
    rows = []
    for one in (*replay["capabilities"], replay["total"]):
        ratio = one["perplexity_ratio"]
        rows.append(
            [
                one["name"],
                f"{one['needs']:,}",
                f"{ratio['value']:.4f} ({ratio['low']:.4f} to {ratio['high']:.4f})",
                f"{ratio['kept_at_least']:.2%}",
                f"{one['saved']:.1%}",
                f"{one['to_specialists']:.1%}",
                f"{one['handed_over']:.1%}",
            ]
        )
    return common.table(head, rows)


def _specialists(told: common.Json) -> list[str]:
    head = (
        *("specialist", "bytes", "FLOPs of a token", "layers", "heads", "neurons", "steps"),
        "minutes",
        *("perplexity, full and own", "kept at least", "admitted"),
    )
    rows = []
    for name, one in told["specialists"].items():
        full, own = (one["own"]["perplexity"][key] for key in ("full", "specialist"))
        rows.append(
            [
                name,
                _share(one["bytes"]),
                _share(one["flops"]),
                *(f"{one['shape'][k]['specialist']:,}" for k in _SHAPE),
                f"{one['steps']:,}",
                f"{one['seconds'] / 60:.0f}",
                f"{full:.2f}, {own:.2f}",
                f"{one['own']['kept_at_least']:.2%}",
                "yes" if one["admitted"] else "**no**",
            ]
        )
    return common.table(head, rows)


def _share(pair: common.Json) -> str:
    return f"{pair['specialist'] / pair['full']:.1%}"


def _shares(replay: common.Json) -> list[str]:
    head = ("of the full model's FLOPs", "saved")
    rows = [[words, f"{replay['parts'][key]:+.2%}"] for key, words in _PARTS.items()]
    cpu = replay["saved"]["cpu_seconds"]
    rows.append(["all together", f"{replay['saved']['flops']:+.2%}"])
    if cpu is not None:
        rows.append(
            [
                f"of the CPU seconds, {replay['timed_requests']} requests served step by step",
                f"{cpu['value']:.1%} ({cpu['low']:.1%} to {cpu['high']:.1%})",
            ]
        )
    return common.table(head, rows)


def _stamp(told: common.Json) -> str:
    machine, seconds = told["stamp"]["machine"], told["seconds"]
    rest = seconds["all"] - seconds["specialists"]
    return (
        f"Measured {machine['date'][:10]} at {told['stamp']['commit']}: {machine['processor']}, "
        f"{told['threads']} threads; beside the specialists {rest / 60:.0f} minutes, at most "
        f"{told['cost']['peak_bytes'] / 1e9:.1f} GB of memory."
    )


if __name__ == "__main__":
    print(section())
