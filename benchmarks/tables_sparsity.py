"""The section of RESULTS.md on zeros, from results/sparsity and results/slim.

python benchmarks/tables_sparsity.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import bench_sparsity
import common

NAMES = {
    "sparsegpt": "preset `sparsegpt`",
    "wanda": "preset `wanda`",
    "joint": "found jointly",
    "aimed": "found jointly, aimed, weighed by importance",
}


def section() -> str:
    """Markdown; empty where nothing was measured."""
    parts = [part for part in (peers(), slim()) if part]
    return "\n\n".join(["## Zeros", *parts]) if parts else ""


def peers() -> str:
    """Ours beside llm-compressor."""
    rows, used = [], []
    for point in bench_sparsity.points():
        found, peer = common.load(f"sparsity/{point.name}"), common.load(point.peer)
        if found is None or peer is None:
            continue
        used += [found]
        method = "Wanda" if point.how == "wanda" else "SparseGPT"
        zeros = point.zeros if ":" in point.zeros else f"{point.zeros}%"
        rows.append(
            [
                zeros,
                NAMES[point.how],
                interval(found["excess"]),
                f"{method} {interval(peer['excess'])}",
                interval(bench_sparsity.against(found, peer), sign=True),
            ]
        )
    if not rows:
        return ""
    head = ["zeros", "ours", "excess (95%)", "llm-compressor's own", "perplexity over the peer's"]
    return "\n".join(
        [
            "Excess perplexity of base6m with zeros in all linears of its blocks, what stays at 16 "
            "bits; the same 192 calibration windows for both, the text of the first table. The "
            'last column is paired window by window: below 0, ours is better. "Found jointly" '
            'differs from SparseGPT in the solver alone; "aimed" adds the aim at the original\'s '
            "outputs and the importance of rows.",
            "",
            *common.table(head, rows),
            "",
            stamped(used, peer_versions()),
        ]
    )


def slim() -> str:
    """Found together, against the same parts in turn and alone."""
    names = sorted(path.stem for path in (common.RESULTS / "slim").glob("*.json"))
    found = [one for name in names if (one := common.load(f"slim/{name}")) is not None]
    if not found:
        return ""
    return "\n\n".join(
        [
            "### Zeros, bits and rank together, and one after the other",
            "All linears of base6m at equal bytes, everything stored counted, each matrix by "
            "itself (`bench_slim.py`). Error: tr(G D H D^T) / tr(G W H W^T), mean over the "
            "matrices. The last column is paired window by window: above 0, the slim choice is "
            "better. Bits alone make no zeros: where none are demanded, theory expects them to "
            "win, and they do.",
            *(budget(one) for one in found),
            stamped(found, ""),
        ]
    )


def budget(one: common.Json) -> str:
    """One pattern at one size."""
    share = "2:4" if one["pattern"] == "2:4" else "50%, unstructured"
    rows = [
        [
            name,
            f"{way['bits']:.3f}",
            f"{way['error']:.4f}",
            interval(way["excess"]),
            "" if name == "slim" else interval(way["over_slim"], sign=True),
        ]
        for name, way in one["ways"].items()
    ]
    head = ["way", "bits", "error", "excess (95%)", "perplexity over slim's"]
    return "\n".join(
        [f"{share}, {one['budget']:.2f} bits a weight:", "", *common.table(head, rows)]
    )


def interval(e: Mapping[str, float], sign: bool = False) -> str:
    """In percent."""
    form = "+.2f" if sign else ".2f"
    value, low, high = (format(100 * e[k], form) for k in ("value", "low", "high"))
    return f"{value}% ({low} to {high})"


def peer_versions() -> str:
    """What the peer ran with."""
    names = [p.stem for p in (common.RESULTS / "sparsity").glob("peer-*.json")]
    found = [common.load(f"sparsity/{name}") for name in sorted(names)]
    versions = {n: v for one in found if one for n, v in one["cost"]["versions"].items()}
    return " Peer: " + ", ".join(f"{n} {v}" for n, v in versions.items()) + "."


def stamped(found: Sequence[common.Json], more: str) -> str:
    """When, where and by what code."""
    machine = found[0]["stamp"]["machine"]
    commits = sorted({one["stamp"]["commit"] for one in found})
    dates = sorted({one["stamp"]["machine"]["date"][:10] for one in found})
    return (
        f"Measured {' and '.join(dates)} at {', '.join(commits)}: {machine['processor']}, "
        f"{machine['cores']} cores.{more}"
    )


if __name__ == "__main__":
    print(section())
