"""The search for the smallest size that passes: few measurements, close to the answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sprue.plan.search import CLOSE, Curve, Measured, smallest

SIZES = [int(1000 * 1.3**i) for i in range(14)]
BOUND = 0.01


def predicted(scale: float = 1.0) -> Curve:
    """A loss that falls as a power of the size."""
    return Curve(SIZES, [scale * (1000 / size) ** 3 for size in SIZES])


def run(truth: Callable[[int], float], scale: float = 1.0) -> list[Measured]:
    asked: list[int] = []

    def measure(size: int) -> float:
        asked.append(size)
        return truth(size)

    found = smallest(measure, predicted(scale), BOUND)
    assert [m.size for m in found] == asked
    assert len(set(asked)) == len(asked)  # nothing is measured twice
    return found


@pytest.mark.parametrize("scale", [0.2, 0.7, 1.0, 1.4, 5.0])
@pytest.mark.parametrize("power", [2.0, 3.0, 4.5])
def test_it_closes_in_on_the_smallest_size(scale: float, power: float) -> None:
    truth = lambda size: (1000 / size) ** power  # noqa: E731
    found = run(truth, scale)
    answer = 1000 * BOUND ** (-1 / power)
    best = min(m.size for m in found if m.passed)
    assert answer <= best <= answer * (1 + 2 * CLOSE)
    assert len(found) <= 7


def test_a_good_prediction_takes_two_or_three_measurements() -> None:
    assert len(run(lambda size: (1000 / size) ** 3)) <= 3


def test_nothing_passes() -> None:
    found = run(lambda size: 1.0)
    assert not any(m.passed for m in found)
    assert max(m.size for m in found) == SIZES[-1]


def test_everything_passes() -> None:
    """Also a loss below 0, which text by chance may give."""
    found = run(lambda size: -1e-3)
    assert all(m.passed for m in found)
    assert min(m.size for m in found) == SIZES[0]


def test_noise_does_not_lead_it_astray() -> None:
    truth = lambda size: (1000 / size) ** 3 * (1 + 0.2 * math.sin(size))  # noqa: E731
    found = run(truth)
    best = min(m.size for m in found if m.passed)
    assert truth(best) <= BOUND
    assert best <= 1.2 * 1000 * BOUND ** (-1 / 3)


def test_the_curve_is_inverted_within_its_ends() -> None:
    curve = predicted()
    for size in (1000, 1234, 9999):
        assert curve.size(curve.loss(size)) == pytest.approx(size, abs=1)
    assert curve.size(10.0) == SIZES[0]
    assert curve.size(0.0) == SIZES[-1]
    assert Curve([1, 2, 4], [1.0, 1.0, 0.5]).size(1.0) in (1, 2)
