"""The router: capabilities of CLINC150, two needs in one request, and RouteLLM's outcomes.

The peer is what people build first: scikit-learn's TF-IDF of words with logistic regression,
trained on the same texts and timed in turns with the router.

python benchmarks/bench_router.py [clinc] [pairs] [outcomes]
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import common
from sprue.fleet.gain import Gain, recovered
from sprue.fleet.router import Router

ROUTING = common.ASSETS / "routing"
CLINC = ROUTING / "clinc-oos/data_full.json"
JOINTS = (" and ", ", and also ", ". ", " then ", "; ", " plus ", "\n", " also ", ", ", " ")
PAIRS = 1000
SEEDS = (0, 1)
FOLDS = 5
RESAMPLED = 1000
WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
PUBLISHED = {"mmlu": 0.603, "gsm8k": 0.622}  # APGR of RouteLLM's best router, as its paper has it
ODD = "mmlu_high_school_mathematics"  # GPT-4's answers are graded wrongly there

Floats = NDArray[np.float64]


class Clinc:
    """CLINC150 by its domains."""

    def __init__(self) -> None:
        domains = common.peers("clinc_domains")["domains"]
        of = {intent: name for name, intents in domains.items() for intent in intents}
        told = json.loads(CLINC.read_text(encoding="utf-8"))
        self.train = [(text, of[intent]) for text, intent in told["train"]]
        self.test = [(text, of[intent]) for text, intent in told["test"]]
        self.others = [text for text, _ in told["oos_train"]]
        self.outside = [text for text, _ in told["oos_test"]]
        self.began = time.perf_counter()
        self.router = Router.train([*self.train, *((text, None) for text in self.others)])
        self.seconds = time.perf_counter() - self.began


def clinc(data: Clinc) -> common.Json:
    """Domains, what is outside of all, and the time of a decision."""
    texts = [text for text, _ in data.test]
    truth = [name for _, name in data.test]
    peer = _peer(data.train)
    mine, times = _in_turns(texts, {"router": data.router.probabilities, "peer": peer})
    names = {"router": list(data.router.capabilities), "peer": sorted(set(truth))}
    outside = {
        "router": np.stack([data.router.probabilities(text) for text in data.outside]),
        "peer": np.stack([peer(text) for text in data.outside]),
    }
    found: common.Json = {}
    for name, scores in mine.items():
        right = [names[name][k] == t for k, t in zip(scores.argmax(1), truth, strict=True)]
        found[name] = {
            "accuracy": _interval(np.array(right, np.float64)),
            "auroc": _auroc(scores.max(1), outside[name].max(1)),
            "p50_ms": 1e3 * statistics.median(times[name]),
            "p99_ms": 1e3 * float(np.quantile(times[name], 0.99)),
        }
    unknown = [data.router.route(text).unknown for text in texts]
    seen = [data.router.route(text).unknown for text in data.outside]
    found["router"] |= {
        "unknown_known": float(np.mean(unknown)),
        "unknown_seen": float(np.mean(seen)),
    }
    return found | {
        "train_seconds": data.seconds,
        "texts": len(texts),
        "outside": len(data.outside),
    }


def _peer(train: Sequence[tuple[str, str]]) -> Callable[[str], Floats]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    made = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, max_iter=500),
    )
    made.fit([text for text, _ in train], [name for _, name in train])
    return lambda text: np.asarray(made.predict_proba([text])[0])


def _in_turns(
    texts: Sequence[str], ways: dict[str, Callable[[str], Any]]
) -> tuple[dict[str, Floats], dict[str, list[float]]]:
    """What each says of each text, and how long it took; one after the other for every text."""
    said: dict[str, list[Any]] = {name: [] for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for text in texts:
        for name, way in ways.items():
            begin = time.perf_counter()
            said[name].append(way(text))
            times[name].append(time.perf_counter() - begin)
    return {name: np.stack(rows) for name, rows in said.items()}, times


def pairs(data: Clinc) -> common.Json:
    """Two requests of different domains in one, by what joins them; and single ones."""
    rng = np.random.default_rng(0)
    exact: dict[str, list[bool]] = {joint: [] for joint in JOINTS}
    both: list[bool] = []
    times: list[float] = []
    while len(both) < PAIRS:
        (a, m), (b, n) = (data.test[i] for i in rng.integers(len(data.test), size=2))
        if m == n:
            continue
        joint = JOINTS[len(both) % len(JOINTS)]
        begin = time.perf_counter()
        spans = data.router.split(a + joint + b)
        times.append(time.perf_counter() - begin)
        needs = {span.decision.capability for span in spans}
        exact[joint].append(needs == {m, n})
        both.append({m, n} <= needs)
    whole = [len(data.router.split(text)) == 1 for text, _ in data.test]
    return {
        "pairs": PAIRS,
        "both": _interval(np.array(both, np.float64)),
        "exact": _interval(np.array([met for some in exact.values() for met in some], np.float64)),
        "by_joint": {joint: float(np.mean(met)) for joint, met in exact.items()},
        "whole": _interval(np.array(whole, np.float64)),
        "p50_ms": 1e3 * statistics.median(times),
    }


def outcomes() -> common.Json:
    """APGR by cross-validation, over several deals of the folds."""
    found: common.Json = {}
    for name, rows in (
        ("mmlu", _mmlu()),
        ("gsm8k", _answers(ROUTING / "routellm/gsm8k/gsm8k_responses.csv")),
    ):
        texts = [text for text, *_ in rows]
        weak, strong = (np.array([row[k] for row in rows], np.float64) for k in (1, 2))
        values, expected = [], []
        for seed in SEEDS:
            expected.append(_outside(texts, strong - weak, seed))
            values.append(recovered(expected[-1], weak, strong))
            print(f"  {name}, seed {seed}: {values[-1]:.4f}", flush=True)
        found[name] = {
            "requests": len(rows),
            "weak": float(weak.mean()),
            "strong": float(strong.mean()),
            "apgr": values,
            "interval": _resampled(expected[0], weak, strong),
            "published": PUBLISHED[name],
        }
    return found


def _mmlu() -> list[tuple[str, bool, bool]]:
    files = sorted((ROUTING / "routellm/mmlu/responses").glob("*.csv"))
    return [row for file in files if file.stem != ODD for row in _answers(file)]


def _answers(file: Path) -> list[tuple[str, bool, bool]]:
    csv.field_size_limit(1 << 30)
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            (row["prompt"], row[WEAK] == "True", row[STRONG] == "True")
            for row in csv.DictReader(lines)
        ]


def _outside(texts: Sequence[str], gained: Floats, seed: int) -> Floats:
    """Expected gains by models that had not seen the request."""
    fold = np.random.default_rng(seed).permutation(len(texts)) % FOLDS
    found = np.zeros(len(texts))
    for k in range(FOLDS):
        shown = np.flatnonzero(fold != k)
        gain = Gain.train([texts[i] for i in shown], gained[shown], seed)
        for i in np.flatnonzero(fold == k):
            found[i] = gain.expected(texts[i])
    return found


def _resampled(expected: Floats, weak: Floats, strong: Floats) -> list[float]:
    """95% by the percentiles of a bootstrap over requests."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLED):
        some = rng.integers(len(weak), size=len(weak))
        values.append(recovered(expected[some], weak[some], strong[some]))
    return [float(v) for v in np.quantile(values, (0.025, 0.975))]


def _interval(met: Floats) -> list[float]:
    """A share and its 95% interval (Wilson 1927)."""
    z, n, p = 1.959964, len(met), float(met.mean())
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return [p, middle - half, middle + half]


def _auroc(known: Floats, outside: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    truth = np.concatenate((np.ones(len(known)), np.zeros(len(outside))))
    return float(roc_auc_score(truth, np.concatenate((known, outside))))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the parts that are asked for, all where none are."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = ["clinc", "pairs", "outcomes"]
    parser.add_argument("parts", nargs="*", choices=[*every, []])
    asked = parser.parse_args(arguments).parts or every
    common.require_assets()
    data = Clinc() if {"clinc", "pairs"} & set(asked) else None
    for name in asked:
        print(name, flush=True)
        made = (
            outcomes()
            if data is None or name == "outcomes"
            else (clinc if name == "clinc" else pairs)(data)
        )
        common.save(f"router/{name}", {"stamp": common.stamp(), **made})
        print(json.dumps(made, indent=1), flush=True)


if __name__ == "__main__":
    main()
