"""The knee, against the paper's steps one by one; the margin and what is measured next."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sprue.proof import knee


def kneedle(xs: list[float], ys: list[float]) -> float:
    """Section III for a falling curve that bends downwards, as a loop."""
    low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
    best, place = -1.0, xs[0]
    for x, y in zip(xs, ys, strict=True):
        right = (x - low_x) / (high_x - low_x)
        up = (y - low_y) / (high_y - low_y)
        difference = up - (1 - right)  # of the curve turned around, over the diagonal
        if difference > best + 1e-12:
            best, place = difference, x
    return place


def losses(kept: list[float], windows: int = 50, spread: float = 0.0) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, spread, (len(kept), windows))
    noise -= noise.mean(1, keepdims=True)
    return -np.log(np.array(kept))[:, None] + noise


@pytest.mark.parametrize("power", [2, 4, 8])
def test_the_knee_is_that_of_the_paper(power: int) -> None:
    xs = [i / 10 for i in range(1, 10)]
    kept = [1 - 0.6 * x**power for x in xs]
    found = knee.knee(xs, losses(kept), 0)
    assert found is not None
    assert found.ratio == kneedle([0.0, *xs], [1.0, *kept])
    assert found.low == found.high == found.ratio  # every window says the same
    exact = 0.9 * power ** (-1 / (power - 1))  # where the slope is that of the chord
    assert abs(found.ratio - exact) <= 0.05 + 1e-9


def test_a_straight_curve_and_a_short_one_have_no_knee() -> None:
    xs = [0.25, 0.5, 0.75]
    assert knee.knee(xs, losses([1 - 0.4 * x for x in xs]), 0) is None
    assert knee.knee([0.5], losses([0.9]), 0) is None
    assert knee.knee(xs, losses([1.0, 1.0, 1.0]), 0) is None
    bent_up = [1 - 0.4 * math.sqrt(x / 0.75) for x in xs]
    assert knee.knee(xs, losses(bent_up), 0) is None


def test_the_interval_follows_the_windows_and_the_seed() -> None:
    xs = [i / 10 for i in range(1, 10)]
    kept = [1 - 0.5 * x**3 for x in xs]
    state = np.random.get_state()[1].tolist()
    wide = knee.knee(xs, losses(kept, 8, 0.3), 0)
    narrow = knee.knee(xs, losses(kept, 400, 0.03), 0)
    assert wide is not None
    assert narrow is not None
    assert wide == knee.knee(xs, losses(kept, 8, 0.3), 0)
    assert wide.low <= wide.ratio <= wide.high
    assert wide.high - wide.low > narrow.high - narrow.low
    assert np.random.get_state()[1].tolist() == state


def test_the_first_that_fails_ends_the_row() -> None:
    ratios = [0.1, 0.2, 0.3, 0.4]
    assert knee.largest(ratios, [0.999, 0.995, 0.98, 0.995], 0.99) == 2
    assert knee.largest(ratios, [0.98, 1.0, 1.0, 1.0], 0.99) == 0
    assert knee.largest(ratios, [0.99, 0.99, 0.99, 0.99], 0.99) == 4


def test_what_is_measured_next_lies_between_and_rather_below() -> None:
    def bound(x: float) -> float:
        return math.exp(-0.1 * x**3)

    keep, low, high = 0.99, 0.3, 0.6
    exact = (-math.log(keep) / 0.1) ** (1 / 3)
    for _ in range(2):
        found = knee.between((low, bound(low)), (high, bound(high)), keep)
        assert found is not None
        assert low < found < high
        assert found <= exact + 0.005
        low = found
    assert knee.between((0.3, 0.995), (0.31, 0.98), 0.99) is None
    assert knee.between((0.3, 0.9900001), (0.4, 0.5), 0.99) == 0.31  # never at the ends
    assert knee.between((0.0, 1.0), (0.1, 0.0), 0.99) == 0.01
