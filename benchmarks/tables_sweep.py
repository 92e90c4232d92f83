"""The section on ratios of zeros, from results/sweep.

python benchmarks/tables_sweep.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import common

MODELS = ("base6m", "small", "tiny")  # the larger first
SHOWN = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
OTHERS = 0.7  # of zeros, where tasks are compared with one another


def section() -> str:
    """Markdown, with whatever was measured; empty where nothing was."""
    found = [f for f in (common.load(f"sweep/{name}") for name in MODELS) if f is not None]
    if not found:
        return ""
    parts = ["## Which ratio of zeros fits which task and model", "", _intro(found), ""]
    for pattern in dict.fromkeys(c["pattern"] for f in found for c in f["curves"]):
        parts += [f"### {pattern}", "", *_marks(found, pattern), "", *_kept(found, pattern), ""]
    parts += _perplexities(found)
    parts += _elsewhere(found)
    parts += ["### What this shows", "", *_shown(found), "", _stamps(found)]
    return "\n".join(parts)


def _intro(found: Sequence[common.Json]) -> str:
    sizes = "; ".join(
        f"{f['model']}: hidden {f['config']['hidden_size']}, {f['config']['num_hidden_layers']} "
        f"layers, {f['weights']:,} weights in linears, perplexity "
        + ", ".join(f"{c} {_original(f, c):.1f}" for c in f["tasks"])
        for f in found
    )
    windows = next(iter(found[0]["tasks"].values()))
    return (
        "Zeros found jointly with what stays (16 bits), calibrated on "
        f"{windows['calibration_windows']} windows of train.txt, measured on "
        f"{windows['evaluation_windows']} windows of test.txt; quality kept with its 95% interval. "
        f"{sizes}. {_training(found)}"
    )


def _training(found: Sequence[common.Json]) -> str:
    counted = [f for f in found if f["steps"]]
    steps = ", ".join(f"{f['model']} {f['steps']:,}" for f in counted)
    return (
        "base6m was trained for 76 minutes of two cores on 19 MB of text, the others by the same "
        f"script on the first 4 MB of it; steps: {steps}. Between base6m and the others size and "
        "training differ; among the others, size alone."
    )


def _original(found: common.Json, task: str) -> float:
    curve = next(c for c in found["curves"] if c["task"] == task)
    return float(curve["points"][0]["on"][task]["perplexity"]["original"])


def _marks(found: Sequence[common.Json], pattern: str) -> list[str]:
    """Knee and margin of every task and model."""
    head = ["task", *(f"{f['model']}: {what}" for f in found for what in ("keeps 99%", "knee"))]
    rows = []
    for task in found[0]["tasks"]:
        cells = []
        for curve in (_curve(f, task, pattern) for f in found):
            cells += [_margin(curve), _knee(curve)]
        rows.append([task, *cells])
    return common.table(head, rows)


def _margin(curve: common.Json) -> str:
    enough = curve["keeps"]
    if enough is None:
        return "none"
    more = "" if curve["fails"] else " or more"
    return f"{100 * enough['ratio']:.4g}%{more}"


def _knee(curve: common.Json) -> str:
    bend = curve["knee"]
    if bend is None:
        return "none"
    return f"{100 * bend['ratio']:.4g}% ({100 * bend['low']:.4g} to {100 * bend['high']:.4g})"


def _kept(found: Sequence[common.Json], pattern: str) -> list[str]:
    """What is kept at every ratio that all curves have."""
    shared = [r for r in _ratios(found, pattern) if pattern != "unstructured" or r in SHOWN]
    head = ["model", "task", *(f"{100 * r:.4g}%" for r in shared)]
    rows = [
        [f["model"], task, *(_interval(_point(f, task, pattern, r), task) for r in shared)]
        for task in found[0]["tasks"]
        for f in found
    ]
    return common.table(head, rows)


def _interval(point: common.Json, task: str) -> str:
    kept = point["on"][task]["kept"]
    return f"{100 * kept['value']:.1f} ({100 * kept['low']:.1f} to {100 * kept['high']:.1f})"


def _perplexities(found: Sequence[common.Json]) -> list[str]:
    """What the text costs the results themselves, whatever their originals were worth."""
    shared = [r for r in _ratios(found, "unstructured") if r in SHOWN]
    head = ["model", "task", "no zeros", *(f"{100 * r:.4g}%" for r in shared)]
    rows = []
    for task in found[0]["tasks"]:
        for f in found:
            points = [_point(f, task, "unstructured", r)["on"][task] for r in shared]
            results = [f"{p['perplexity']['result']:.1f}" for p in points]
            rows.append([f["model"], task, f"{_original(f, task):.1f}", *results])
    counts = ", ".join(f"{f['model']} {f['weights']:,}" for f in found)
    note = f"Of the results, unstructured zeros; weights in linears before any is zero: {counts}."
    return ["### Perplexity", "", note, "", *common.table(head, rows), ""]


def _elsewhere(found: Sequence[common.Json]) -> list[str]:
    """Rows: calibrated on; columns: measured on."""
    lines = []
    for f in found:
        if OTHERS not in _ratios([f], "unstructured"):
            continue
        tasks = list(f["tasks"])
        rows = []
        for a in tasks:
            point = _point(f, a, "unstructured", OTHERS)
            rows.append([a, *(f"{100 * point['on'][b]['kept']['value']:.1f}" for b in tasks)])
        title = f"### {f['model']}: kept on every task at {100 * OTHERS:g}% of unstructured zeros"
        note = "Rows: calibrated on. Columns: measured on, in percent."
        lines += [title, "", note, "", *common.table(["", *tasks], rows), ""]
    return lines


def _shown(found: Sequence[common.Json]) -> list[str]:
    """Only what the intervals tell apart is called a difference."""
    lines = [_tasks_differ(f, pattern) for f in found for pattern in _patterns(f)]
    for pair in pairwise(found):
        lines += [_models_differ(pair, pattern) for pattern in _patterns(found[0])]
        lines += [_still_better(pair)]
    return lines


def _tasks_differ(found: common.Json, pattern: str) -> str:
    apart = total = 0
    for ratio in _ratios([found], pattern):
        for a, b in combinations(found["tasks"], 2):
            total += 1
            apart += _apart(_own(found, a, pattern, ratio), _own(found, b, pattern, ratio)) != 0
    return (
        f"- {found['model']}, {pattern}: of {total} pairs of tasks at the same ratio, {apart} have "
        "intervals that lie apart."
    )


def _models_differ(found: Sequence[common.Json], pattern: str) -> str:
    signs = [
        _apart(*(_own(f, task, pattern, ratio) for f in found))
        for ratio in _ratios(found, pattern)
        for task in found[0]["tasks"]
    ]
    larger, smaller = (f["model"] for f in found)
    return (
        f"- {pattern}: at {len(signs)} points that both models have, {larger} keeps more at "
        f"{signs.count(1)}, {smaller} at {signs.count(-1)}; at {signs.count(0)} the intervals "
        "overlap."
    )


def _still_better(found: Sequence[common.Json]) -> str:
    """The larger model with the most zeros beside the smaller one without any."""
    larger, smaller = found
    ratio = max(_ratios([larger], "unstructured"))
    tasks = list(larger["tasks"])
    pruned = [_point(larger, t, "unstructured", ratio)["on"][t]["perplexity"] for t in tasks]
    better = [p["result"] < _original(smaller, t) for t, p in zip(tasks, pruned, strict=True)]
    left = round((1 - ratio) * larger["weights"])
    return (
        f"- {larger['model']} with {100 * ratio:g}% of zeros ({left:,} weights left in linears) "
        f"has a lower perplexity than {smaller['model']} with none ({smaller['weights']:,}) on "
        f"{sum(better)} of {len(tasks)} texts."
    )


def _apart(a: common.Json, b: common.Json) -> int:
    """1 where the interval of a lies above that of b, -1 below, 0 where they overlap."""
    return int(a["low"] > b["high"]) - int(b["low"] > a["high"])


def _own(found: common.Json, task: str, pattern: str, ratio: float) -> common.Json:
    kept: common.Json = _point(found, task, pattern, ratio)["on"][task]["kept"]
    return kept


def _patterns(found: common.Json) -> list[str]:
    return list(dict.fromkeys(curve["pattern"] for curve in found["curves"]))


def _curve(found: common.Json, task: str, pattern: str) -> common.Json:
    curves: Iterator[common.Json] = iter(found["curves"])
    return next(c for c in curves if (c["task"], c["pattern"]) == (task, pattern))


def _point(found: common.Json, task: str, pattern: str, ratio: float) -> common.Json:
    points: Iterator[common.Json] = iter(_curve(found, task, pattern)["points"])
    return next(p for p in points if p["ratio"] == ratio)


def _ratios(found: Sequence[common.Json], pattern: str) -> list[float]:
    """Those that all tasks of all models have."""
    sets = [
        {p["ratio"] for p in c["points"]}
        for f in found
        for c in f["curves"]
        if c["pattern"] == pattern
    ]
    return sorted(set.intersection(*sets)) if sets else []


def _stamps(found: Sequence[common.Json]) -> str:
    return " ".join(
        f"{f['model']}: the last run measured {f['cost']['points']} of its "
        f"{sum(len(c['points']) for c in f['curves'])} points in {f['cost']['cpu_seconds']:.0f} "
        f"CPU seconds with one thread, {f['cost']['peak_bytes'] / 1e6:.0f} MB at the peak; commit "
        f"{f['stamp']['commit']}, {f['stamp']['machine']['date'][:10]}."
        for f in found
    )


if __name__ == "__main__":
    print(section())
