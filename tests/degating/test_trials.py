"""Which trials are proven, and in which order."""

from __future__ import annotations

import pytest

from sprue.degating.trials import Limits, Trial, chain
from sprue.plan.sparing import ladder


def trial(name: str, kept: float, latency: float, size: float = 0.3, energy: float = 0.5) -> Trial:
    return Trial(name, 0.5, "int8", 0, 0.0, 1, 1, kept, kept - 0.005, latency, energy, size)


NEAR = trial("n", 0.9875, 0.25)  # the search may have been unlucky
SAFE, MIDDLE, FAST = trial("a", 1.0, 0.5), trial("b", 0.998, 0.4), trial("c", 0.996, 0.3)
BAD, WORSE = trial("d", 0.9, 0.2), trial("e", 0.997, 0.6)
WHOLE = trial("original", 1.0, 1.0, 1.0, 1.0)


def test_from_the_safest_to_the_fastest() -> None:
    every = [FAST, BAD, WHOLE, SAFE, WORSE, MIDDLE]
    assert chain(every, 0.99, Limits()) == [SAFE, MIDDLE, FAST]
    assert chain(every, 0.99, Limits(), looks=2) == [SAFE, FAST]


def test_what_may_be_good_enough_comes_last() -> None:
    assert chain([NEAR, SAFE], 0.99, Limits()) == [SAFE, NEAR]
    assert chain([trial("m", 0.98, 0.25), SAFE], 0.99, Limits()) == [SAFE]


def test_what_is_no_smaller_and_no_faster_is_no_result() -> None:
    assert chain([WHOLE], 0.99, Limits()) == []


def test_within_a_budget_the_best_that_is_left() -> None:
    every = [FAST, SAFE, MIDDLE]
    assert chain(every, 0.99, Limits(latency=0.45)) == [MIDDLE]
    assert chain(every, 0.99, Limits(latency=0.35, size=0.3)) == [FAST]


def test_where_nothing_is_good_enough_the_nearest() -> None:
    assert chain([BAD, trial("f", 0.95, 0.3)], 0.99, Limits())[0].file == "f"
    assert chain([FAST, SAFE], 0.99, Limits(latency=0.2)) == [FAST]


def test_limits_say_by_how_much_they_are_broken() -> None:
    limits = Limits(latency=0.4, size=0.2)
    assert limits.broken(0.5, 0.3, 9.0) == {"latency": (0.5, 0.4), "size": (0.3, 0.2)}
    assert limits.excess(trial("g", 1.0, 0.5, 0.3)) == pytest.approx(0.5)
    assert Limits().excess(FAST) == 0


def test_never_more_than_half_of_the_layers_are_spared() -> None:
    assert list(ladder(20)) == [1, 2, 4, 8]
    assert list(ladder(1)) == []
