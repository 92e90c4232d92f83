"""The section of RESULTS.md on networks, from results/degating."""

from __future__ import annotations

from typing import Any

import common


def section() -> str:
    """Empty where nothing was measured."""
    names = sorted(path.stem for path in (common.RESULTS / "degating").glob("*.json"))
    found = [one for name in names if (one := common.load(f"degating/{name}")) is not None]
    real = [one for one in found if "report" in one]
    random = [one for one in found if "costs" in one]
    if not found:
        return ""
    parts = [
        "## Degating: networks before and after",
        "",
        "`bench_degating.py`. Original and result in the same engine, one thread, timed in turns; "
        "size is that of all files that the engine loads; memory is what the network adds to its "
        f"process. {_machine(found[0])}",
        "",
        *_real(real),
        *_beside(real),
        *_repair([one for one in found if "repair" in one]),
        *_random(random),
    ]
    return "\n".join(parts)


def _machine(one: common.Json) -> str:
    told = one["stamp"]["machine"]
    return f"{told['processor']}, {told['cores']} cores, {told['date'][:10]}."


def _real(rows: list[common.Json]) -> list[str]:
    head = [
        *("network", "engine", "FLOPs", "precision", "size", "latency (95%)", "memory"),
        *("energy", "kept", "at least", "passed"),
    ]
    return [*common.table(head, [_real_row(one) for one in rows]), ""] if rows else []


def _real_row(one: common.Json) -> list[str]:
    report, cut = one["report"], one["cut"]
    score = report["scores"][report["verdict"]["metric"]]
    return [
        one["row"] + (f", {one['minutes']:g} min of training at most" if one["minutes"] else ""),
        report["engine"],
        _percent(cut["share"]),
        cut["precision"],
        f"{_mb(report['bytes']['original'])} to {_mb(report['bytes']['result'])} "
        f"({_percent(report['bytes']['ratio'])})",
        _ratio(report["latency"]["ratio"]),
        _percent(report["memory"]["ratio"]),
        f"{_percent(report['energy']['ratio'])} ({report['energy']['result']['source']})",
        f"{report['verdict']['metric']} {score['original']:.4f} to {score['result']:.4f}: "
        f"{_percent(score['kept']['value'], 2)}",
        _percent(score["at_least"], 2),
        "yes" if report["passed"] else "**no**",
    ]


def _beside(rows: list[common.Json]) -> list[str]:
    """Pruning and 8 bits beside 8 bits alone, on the examples of the search."""
    found = []
    for one in rows:
        trials = one["report"]["trials"]
        alone = [t for t in trials if t["share"] == 1 and t["precision"] == "int8"]
        both = [
            t for t in trials if t["share"] < 1 and t["precision"] == "int8" and t["kept"] >= 0.99
        ]
        if alone and both:
            a, b = max(alone, key=lambda t: t["kept"]), min(both, key=lambda t: t["latency"])
            found.append([one["row"], *_trial(a), _percent(b["share"]), *_trial(b)])
    if not found:
        return []
    head = ["network", "8 bits alone: size", "latency", "kept", "FLOPs", "pruned too: size"]
    head += ["latency", "kept"]
    words = "What pruning adds to 8 bits, on the examples of the search:"
    return [words, "", *common.table(head, found), ""]


def _repair(rows: list[common.Json]) -> list[str]:
    """Cut networks without training."""
    found = []
    for one in rows:
        for row in one["repair"]:
            kept = (_percent(row[kind] / one["original"], 1) for kind in ("cut", "repaired"))
            right = (f"{row['cut']:.4f}", f"{row['repaired']:.4f}")
            found.append([one["row"], _percent(row["flops"]), *right, *kept])
    if not found:
        return []
    head = ["network", "FLOPs", "top-1, cut alone", "repaired", "kept, cut alone", "repaired"]
    words = "Without training, float32, all test images; the repair is by least squares:"
    return [words, "", *common.table(head, found), ""]


def _trial(trial: dict[str, Any]) -> list[str]:
    return [_percent(trial["size"]), _percent(trial["latency"]), _percent(trial["kept"], 2)]


def _random(rows: list[common.Json]) -> list[str]:
    found = []
    for one in rows:
        for kind, costs in one["costs"].items():
            found.append(
                [
                    one["row"],
                    kind,
                    costs["engine"],
                    f"{_mb(costs['bytes']['original'])} to {_mb(costs['bytes']['result'])} "
                    f"({_percent(costs['bytes']['ratio'])})",
                    f"{1e3 * costs['latency']['original']['seconds']:.1f} to "
                    f"{1e3 * costs['latency']['result']['seconds']:.1f} ms",
                    _ratio(costs["latency"]["ratio"]),
                    _percent(costs["memory"]["ratio"]),
                    f"{_percent(costs['energy']['ratio'])} ({costs['energy']['result']['source']})",
                ]
            )
    if not found:
        return []
    head = ["network", "what", "engine", "size", "latency", "ratio (95%)", "memory", "energy"]
    share = _percent(rows[0]["share"])
    words = (
        f"Full size with seeded random weights, pruned to {share} of the FLOPs: costs alone, "
        "nothing is said of quality."
    )
    return [words, "", *common.table(head, found), ""]


def _ratio(estimate: dict[str, float]) -> str:
    low, high = (_percent(estimate[end]) for end in ("low", "high"))
    return f"{_percent(estimate['value'])} ({low} to {high})"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%"


def _mb(nbytes: float) -> str:
    return f"{nbytes / 1e6:.2f} MB"
