"""Intervals for what was measured on windows of text, and for what was timed.

Windows: the window is the unit, since the tokens in it depend on one another; both models see the
same windows, so differences are taken window by window before anything is averaged. Windows are
drawn from each file without replacement, so the files are strata: the mean over the files has the
variance sum(s_f^2 / n_f) / F^2 and Satterthwaite's degrees of freedom. An interval of Student's t
on that mean was chosen over a bootstrap: the percentile bootstrap is too narrow for few windows
(with n of them by a factor of about sqrt((n - 1) / n) times z / t), it needs a seed and thousands
of resamples, and for means of dozens of windows both agree otherwise.

Timings: medians of paired ratios, with the interval of the sign test, which assumes no
distribution. Satterthwaite: Biometrics Bulletin 2 (1946) 110; sign test: Conover, Practical
Nonparametric Statistics, section 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval.

    Attributes:
        value: the figure.
        low, high: the ends of the interval; the unit is that of `value`.
        confidence: how often such an interval covers the truth.
    """

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def through(self, function: Callable[[float], float]) -> Estimate:
        """The same statement about `function` of the figure, which must be monotone."""
        ends = sorted((function(self.low), function(self.high)))
        return Estimate(function(self.value), ends[0], ends[1], self.confidence)

    def within(self, least: float, most: float) -> Estimate:
        """The interval without what is impossible, such as a share above 1."""
        low, high = (min(max(end, least), most) for end in (self.low, self.high))
        return Estimate(self.value, low, high, self.confidence)


@dataclass(frozen=True)
class Mean:
    """A stratified mean.

    Attributes:
        value: the mean over the strata of their means.
        error: its standard error.
        freedom: Satterthwaite's degrees of freedom.
    """

    value: float
    error: float
    freedom: float

    def interval(self, confidence: float = CONFIDENCE) -> Estimate:
        """The two-sided interval."""
        reach = self._reach((1 + confidence) / 2)
        return Estimate(self.value, self.value - reach, self.value + reach, confidence)

    def at_most(self, confidence: float = CONFIDENCE) -> float:
        """The one-sided upper bound."""
        return self.value + self._reach(confidence)

    def _reach(self, quantile: float) -> float:
        if self.error == 0:
            return 0.0
        return self.error * float(stats.t.ppf(quantile, self.freedom))


def mean(strata: Sequence[ArrayLike]) -> Mean:
    """The mean over strata, each weighing the same.

    Args:
        strata: for each stratum its observations, at least two.

    Raises:
        ValueError: no stratum, or one with fewer than two observations.
    """
    samples: list[NDArray[np.float64]] = [np.asarray(s, dtype=np.float64) for s in strata]
    if not samples or min(len(s) for s in samples) < 2:
        raise ValueError("an interval needs at least two observations in every stratum")
    variances = np.array([s.var(ddof=1) / len(s) for s in samples])
    total = variances.sum()
    spread = sum(v**2 / (len(s) - 1) for v, s in zip(variances, samples, strict=True))
    return Mean(
        value=float(np.mean([s.mean() for s in samples])),
        error=math.sqrt(total) / len(samples),
        freedom=float(total**2 / spread) if spread > 0 else math.inf,
    )


def median(values: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """The median, with the interval of the sign test.

    Where the observations are too few for `confidence` the interval is their range, and
    `Estimate.confidence` is what that range deserves: 1 - 2^(1 - n).

    Raises:
        ValueError: no observation.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        raise ValueError("a median needs at least one observation")
    # The largest k with P(Bin(n, 1/2) < k) <= (1 - confidence) / 2; the k-th values from both ends.
    k = max(1, int(stats.binom.ppf((1 - confidence) / 2, n, 0.5)))
    covered = 1 - 2 * float(stats.binom.cdf(k - 1, n, 0.5))
    return Estimate(
        float(np.median(ordered)), float(ordered[k - 1]), float(ordered[n - k]), covered
    )
