"""The knapsack behind a budget: exact, quick, and silent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprue.errors import BudgetError
from sprue.plan import solve as module
from sprue.plan.solve import Candidate, solve
from sprue.weights.choice import Choice

CHOICE = Choice()
ROW = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 50)), min_size=1, max_size=5)


def candidates(rows: Sequence[Sequence[tuple[float, float]]]) -> dict[str, list[Candidate]]:
    """From (size, damage) in place of what a matrix would offer."""
    return {str(i): [Candidate(CHOICE, s, d) for s, d in row] for i, row in enumerate(rows)}


def totals(picked: Mapping[str, Candidate]) -> tuple[float, float]:
    return sum(c.size for c in picked.values()), sum(c.damage for c in picked.values())


@settings(max_examples=300, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5), st.floats(0, 1))
def test_it_is_as_good_as_trying_all(rows: list[list[tuple[int, int]]], share: float) -> None:
    least = sum(min(s for s, _ in row) for row in rows)
    budget = least + share * sum(max(s for s, _ in row) for row in rows)
    picks = itertools.product(*rows)
    best = min(sum(d for _, d in pick) for pick in picks if sum(s for s, _ in pick) <= budget)
    size, damage = totals(solve(candidates(rows), budget))
    assert size <= budget
    assert damage == best


def realistic(count: int, seed: int, alike: bool = False) -> dict[str, list[Candidate]]:
    """Matrices whose damage falls by four with each bit, from 3/4 to 6 bits in eighths."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        weights = (4096 * 4096, 1024 * 4096, 14336 * 4096)[i % 3]
        worth, side = (1.0, 0.0) if alike else (float(np.exp(rng.normal())), rng.random() / 99)
        bits = np.arange(0.75, 6.0, 0.125) + side
        rows.append([(b * weights, worth * weights * 4.0**-b) for b in bits.tolist()])
    return candidates(rows)


@pytest.mark.parametrize("alike", [False, True])
def test_hundreds_of_matrices_fill_the_budget(alike: bool) -> None:
    menu = realistic(300, 1, alike)
    weights = sum(row[0].size for row in menu.values()) / 0.75
    size, _ = totals(solve(menu, 2.03 * weights))
    assert 2.029 * weights < size <= 2.03 * weights


def test_no_pick_beats_the_price_of_a_bit() -> None:
    """Lagrange: none within the budget does less than min sum(damage + p size) - p budget."""
    menu = realistic(60, 2)
    budget = 3.1 * sum(row[0].size for row in menu.values()) / 0.75
    _, damage = totals(solve(menu, budget))
    bound = max(
        sum(min(c.damage + price * c.size for c in row) for row in menu.values()) - price * budget
        for price in np.geomspace(1e-3, 1, 300)
    )
    assert bound <= damage <= 1.001 * bound


def test_more_budget_never_hurts() -> None:
    menu = realistic(12, 3)
    least = sum(row[0].size for row in menu.values())
    damages = [totals(solve(menu, least * share))[1] for share in np.linspace(1, 9, 25)]
    assert damages == sorted(damages, reverse=True)


def test_the_order_of_names_does_not_matter_to_the_damage() -> None:
    menu = realistic(20, 4)
    turned = dict(reversed(menu.items()))
    budget = 2.5 * sum(row[0].size for row in menu.values()) / 0.75
    assert totals(solve(menu, budget))[1] == pytest.approx(totals(solve(turned, budget))[1])


def test_exactly_the_least_is_enough() -> None:
    menu = candidates([[(3, 5), (4, 1)], [(2, 5), (9, 0)]])
    assert totals(solve(menu, 5)) == (5, 10)


def test_less_than_the_least_is_refused() -> None:
    menu = candidates([[(800, 5), (900, 1)], [(1600, 5)]])
    with pytest.raises(BudgetError, match=r"leaves 299 bytes .* at least 300: give more"):
        solve(menu, 2399)


def test_plenty_takes_the_least_damage_and_of_equals_the_smallest() -> None:
    menu = candidates([[(3, 5), (9, 1), (5, 1)], [(1, 0), (2, 0)]])
    assert [c.size for c in solve(menu, 1e9).values()] == [5, 1]


def test_matrices_without_any_damage_take_the_least() -> None:
    menu = candidates([[(3, 0), (9, 0)]] * 4)
    assert totals(solve(menu, 20)) == (12, 0)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    solve(realistic(40, 5), 1e9)
    assert capfd.readouterr() == ("", "")


def test_where_states_would_be_too_many_it_settles_for_nearly_as_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    menu = realistic(30, 6)
    budget = 2.2 * sum(row[0].size for row in menu.values()) / 0.75
    best = totals(solve(menu, budget))[1]
    monkeypatch.setattr(module, "_MOST_STATES", 10)
    size, damage = totals(solve(menu, budget))
    assert size <= budget
    assert best <= damage <= 1.02 * best
