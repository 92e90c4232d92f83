"""What a result kept of its original on the same examples, with an interval.

Means over examples (accuracy, exact match): the ratio r of two means of paired numbers a and b has,
by the delta method, the variance of b - r a over n times the squared mean of a; Student's t.
Everything else (F1, mAP, rank correlations): the logarithm of the ratio, its standard error from
examples drawn with repetition, the same for both (a paired bootstrap: Efron and Tibshirani 1993,
section 6), and Student's t again. Quantiles of the bootstrap itself would be too narrow for the few
dozen images that detectors are often judged by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sprue.errors import InputError
from sprue.proof.intervals import CONFIDENCE, Estimate

RESAMPLES = 1000
_LEAST = 1e-12


class Metric(Protocol):
    """A way to score answers.

    Attributes:
        name: as reports call it.
        mean: whether it is the mean of one number for each example, which `read` gives then.
    """

    @property
    def name(self) -> str: ...

    @property
    def mean(self) -> bool: ...

    def read(self, outputs: NDArray[Any], truth: Any) -> Any:
        """What one network got, for each example."""

    def value(self, got: Any, chosen: NDArray[np.int64]) -> float:
        """The score over some examples, which may be named more than once."""

    def count(self, got: Any) -> int:
        """How many examples there are."""


@dataclass(frozen=True)
class Kept:
    """By one metric.

    Attributes:
        name: of the metric.
        original, result: the scores.
        kept: result over original, with a two-sided interval.
        at_least: the one-sided lower bound, at the confidence of the interval.
    """

    name: str
    original: float
    result: float
    kept: Estimate
    at_least: float


def paired(
    metric: Metric,
    original: Any,
    result: Any,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Kept:
    """What was kept, by a metric.

    Args:
        metric: how both were read.
        original, result: what each got.
        seed: of the examples that are drawn.
        resamples: how often they are.
        confidence: of interval and bound.

    Raises:
        InputError: the original scores nothing: data and model do not belong together; or fewer
            than two examples.
    """
    n = metric.count(original)
    if n < 2:
        raise InputError(f"expected at least 2 examples to measure {metric.name} on, got {n}")
    every = np.arange(n)
    a, b = metric.value(original, every), metric.value(result, every)
    if a <= 0:
        raise InputError(
            f"the original scores {a:.4g} in {metric.name}: the labels do not match what the model "
            "gives. Check the order of the classes, and how inputs are prepared"
        )
    if metric.mean:
        ratio, ends, least = _of_means(original, result, confidence)
    else:
        ratio, ends, least = _drawn(metric, original, result, seed, resamples, confidence)
    return Kept(metric.name, a, b, Estimate(ratio, *ends, confidence), least)


def _of_means(
    original: NDArray[Any], result: NDArray[Any], confidence: float
) -> tuple[float, tuple[float, float], float]:
    a, b = np.asarray(original, np.float64), np.asarray(result, np.float64)
    ratio = float(b.mean() / a.mean())
    error = float((b - ratio * a).std(ddof=1) / math.sqrt(len(a)) / a.mean())
    two, one = _quantiles(len(a), confidence)
    return ratio, (ratio - two * error, ratio + two * error), ratio - one * error


def _drawn(
    metric: Metric, original: Any, result: Any, seed: int, resamples: int, confidence: float
) -> tuple[float, tuple[float, float], float]:
    n = metric.count(original)
    rng = np.random.default_rng(seed)
    logs = []
    for _ in range(resamples):
        chosen = rng.integers(0, n, n)
        a, b = metric.value(original, chosen), metric.value(result, chosen)
        if a > _LEAST and b > _LEAST:
            logs.append(math.log(b / a))
    every = np.arange(n)
    ratio = metric.value(result, every) / metric.value(original, every)
    if ratio <= _LEAST or len(logs) < 2:
        return ratio, (0.0, max(ratio, 1.0)), 0.0
    error = float(np.std(logs, ddof=1))
    two, one = _quantiles(n, confidence)
    ends = ratio * math.exp(-two * error), ratio * math.exp(two * error)
    return ratio, ends, ratio * math.exp(-one * error)


def _quantiles(n: int, confidence: float) -> tuple[float, float]:
    """Of Student's t, two-sided and one-sided."""
    freedom = n - 1
    two = float(stats.t.ppf((1 + confidence) / 2, freedom))
    return two, float(stats.t.ppf(confidence, freedom))


class Means:
    """What the metrics share that are means of one number for each example."""

    mean = True

    def value(self, got: NDArray[Any], chosen: NDArray[np.int64]) -> float:
        """The mean over the chosen ones."""
        return float(np.asarray(got)[chosen].mean())

    def count(self, got: NDArray[Any]) -> int:
        """Of examples."""
        return len(got)
