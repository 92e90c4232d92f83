"""The intervals cover the truth about as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sprue.proof import intervals


def covered(draw: object, truth: float, times: int) -> float:
    """How often the interval of the mean covers `truth`."""
    hits = 0
    for seed in range(times):
        estimate = intervals.mean(draw(np.random.default_rng(seed))).interval()  # type: ignore[operator]
        hits += estimate.low <= truth <= estimate.high
    return hits / times


def test_one_stratum_is_the_t_interval_of_the_textbook() -> None:
    x = np.array([1.0, 2.0, 4.0, 7.0])
    got = intervals.mean([x]).interval()
    low, high = stats.t.interval(0.95, 3, x.mean(), x.std(ddof=1) / 2)
    assert (got.value, got.low, got.high) == pytest.approx((3.5, low, high))


def test_two_strata_are_welchs_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 9), rng.normal(0, 4, 14)
    got = intervals.mean([a, -b])
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert got.freedom == pytest.approx(welch.df)
    assert got.value / got.error == pytest.approx(welch.statistic)


@pytest.mark.parametrize("windows", [8, 40])
def test_the_interval_of_paired_differences_covers_the_truth(windows: int) -> None:
    """Four files of different means and spreads, 2,000 simulations: 95% give or take 1.5%."""

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.normal(0.02 * f, 0.01 * (1 + f), windows) for f in range(4)]

    assert covered(draw, 0.03, 2000) == pytest.approx(0.95, abs=0.015)


def test_the_interval_of_a_skewed_divergence_covers_the_truth() -> None:
    """Lognormal divergences, as windows of text give them; skew costs a little coverage."""

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.lognormal(-3, 0.5, 40) for _ in range(4)]

    assert covered(draw, math.exp(-3 + 0.125), 2000) == pytest.approx(0.95, abs=0.02)


def test_the_one_sided_bound_is_crossed_once_in_twenty() -> None:
    rng = np.random.default_rng(1)
    crossed = np.mean([intervals.mean([rng.normal(1, 2, 12)]).at_most() < 1 for _ in range(4000)])
    assert crossed == pytest.approx(0.05, abs=0.012)


def test_no_spread_gives_no_width() -> None:
    estimate = intervals.mean([np.zeros(5), np.zeros(7)]).interval()
    assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert intervals.mean([np.zeros(5)]).at_most() == 0


def test_a_single_observation_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        intervals.mean([[1.0, 2.0], [1.0]])
    with pytest.raises(ValueError, match="at least one"):
        intervals.median([])


@pytest.mark.parametrize("n", [6, 9, 20])
def test_the_interval_of_the_median_covers_it_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = [intervals.median(rng.lognormal(0, 1, n)) for _ in range(3000)]
    hits = np.mean([e.low <= 1 <= e.high for e in draws])
    assert draws[0].confidence >= 0.95
    assert hits == pytest.approx(draws[0].confidence, abs=0.012)


def test_the_interval_of_few_timings_says_what_it_deserves() -> None:
    estimate = intervals.median([3.0, 1.0, 2.0])
    assert (estimate.value, estimate.low, estimate.high) == (2, 1, 3)
    assert estimate.confidence == pytest.approx(0.75)


def test_a_monotone_function_keeps_the_statement() -> None:
    estimate = intervals.Estimate(0.0, -1.0, 2.0)
    falling = estimate.through(lambda x: math.exp(-x))
    assert falling.low < falling.value < falling.high
    assert falling.high == pytest.approx(math.e)
    assert estimate.within(0, 1) == intervals.Estimate(0.0, 0.0, 1.0)
