"""The section of RESULTS.md on how well an audit foresees damage, from results/audit."""

from __future__ import annotations

from collections.abc import Sequence

import common

_ORDER = ("resnet20", "resnet44", "minilm", "base6m")
_NAMES = {
    "compared": "audit, the same points",
    "error": "share of the layer's output that is lost",
    "kfac, drawn": "K-FAC, drawn answers",
    "kfac, normal": "K-FAC, normal vectors",
    "mean apart, drawn": "K-FAC, mean apart, drawn answers",
    "mean apart, normal": "K-FAC, mean apart, normal vectors",
}


def section() -> str:
    """Markdown; empty where nothing was measured."""
    found = [one for n in _ORDER if (one := common.load(f"audit/{n}")) is not None]
    if not found:
        return ""
    parts = [
        "## Audit: damage foreseen and true",
        "",
        "`bench_audit.py`: every technique in every layer alone. Spearman's rank correlation of "
        "the damage that the audit predicts with the divergence measured on other examples, "
        "over the layers of one technique, and over all pairs of layer and technique. Halves: of "
        "the measured damage on one half of those examples with that on the other, which is what "
        "any prediction can hope for. Ratio: predicted over measured, the median and the range of "
        "four in five.",
        "",
        *_by_technique(found),
        "",
        "Simpler predictions, over the layers without groups that are no embeddings; in brackets "
        "the least of any technique.",
        "",
        *_rivals(found),
        "",
        _stamp(found),
    ]
    return "\n".join(parts)


def _by_technique(found: Sequence[common.Json]) -> list[str]:
    rows = []
    for one in found:
        told = one["spearman"]
        for technique, value in told["predicted"].items():
            some = [p for p in one["points"] if technique in ("all", p["technique"])]
            rows.append(
                [
                    one["name"] if technique == "all" else "",
                    technique if technique != "all" else "**all**",
                    str(len(some)),
                    f"{value:.3f}" if technique != "all" else f"**{value:.3f}**",
                    f"{told['halves'][technique]:.3f}",
                    _ratio(some),
                ]
            )
    head = ["network", "technique", "points", "correlation", "halves", "ratio"]
    return common.table(head, rows)


def _ratio(points: Sequence[common.Json]) -> str:
    ratios = sorted(p["predicted"] / p["true"] for p in points if p["true"] > 0)
    if not ratios:
        return ""
    low, middle, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.1, 0.5, 0.9))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _rivals(found: Sequence[common.Json]) -> list[str]:
    names = [n for n in _NAMES if all(n in one["spearman"] for one in found)]
    rows = [[_NAMES[n], *(_both(one["spearman"][n]) for one in found)] for n in names]
    return common.table(["prediction", *(one["name"] for one in found)], rows)


def _both(told: common.Json) -> str:
    least = min(value for technique, value in told.items() if technique != "all")
    return f"{told['all']:.3f} ({least:.2f})"


def _stamp(found: Sequence[common.Json]) -> str:
    stamps = [one["stamp"] for one in found]
    machine = stamps[0]["machine"]
    dates = ", ".join(sorted({stamp["machine"]["date"][:10] for stamp in stamps}))
    seconds = "; ".join(
        f"{one['name']} {one['cpu_seconds']['audit']:.0f} of {one['cpu_seconds']['all']:.0f}"
        for one in found
    )
    examples = "; ".join(f"{one['name']} {one['examples'][0]} and {one['examples'][1]}"
                         for one in found)  # fmt: skip
    return (
        f"Measured {dates}: {machine['processor']}, one thread. Examples audited and measured: "
        f"{examples}. CPU seconds of the audit, of all: {seconds}."
    )


if __name__ == "__main__":
    print(section())
