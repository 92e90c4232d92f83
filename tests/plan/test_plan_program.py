"""Several budgets at once: as good as trying all, and never over any of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprue.errors import BudgetError
from sprue.plan.program import program
from sprue.plan.solve import Candidate, solve
from sprue.weights.choice import Choice

CHOICE = Choice()
ROW = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(0, 50)), min_size=1, max_size=5
)
Rows = list[list[tuple[int, int, int]]]


def menu(rows: Rows) -> dict[str, list[Candidate]]:
    """From (size, FLOPs, damage)."""
    return {
        str(i): [Candidate(CHOICE, s, d, flops=f, nonzeros=f) for s, f, d in row]
        for i, row in enumerate(rows)
    }


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_it_is_as_good_as_trying_all(rows: Rows, a: float, b: float) -> None:
    """To the stated gap; where nothing fits, it says so."""
    most = [sum(max(c[k] for c in row) for row in rows) for k in (0, 1)]
    limits = {"size": max(1.0, a * most[0]), "FLOPs": max(1.0, b * most[1])}
    fits = [
        sum(c[2] for c in pick)
        for pick in itertools.product(*rows)
        if sum(c[0] for c in pick) <= limits["size"] and sum(c[1] for c in pick) <= limits["FLOPs"]
    ]
    if not fits:
        with pytest.raises(BudgetError):
            program(menu(rows), limits)
        return
    picked = program(menu(rows), limits).values()
    for what, limit in limits.items():
        assert sum(c.cost(what) for c in picked) <= limit * (1 + 1e-12)
    assert sum(c.damage for c in picked) <= min(fits) * 1.001 + 1e-6


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5), st.floats(0, 1))
def test_one_budget_gives_what_the_knapsack_gives(rows: Rows, share: float) -> None:
    low, high = (sum(pick(c[0] for c in row) for row in rows) for pick in (min, max))
    budget = low + share * (high - low)
    ours = sum(c.damage for c in program(menu(rows), {"size": budget}).values())
    assert ours == pytest.approx(
        sum(c.damage for c in solve(menu(rows), budget).values()), rel=1e-3
    )


def test_what_cannot_be_met_is_named() -> None:
    rows = [[(10, 1, 0), (1, 10, 5)], [(10, 1, 0), (1, 10, 5)]]
    with pytest.raises(BudgetError, match="the FLOPs asked for cannot be met"):
        program(menu(rows), {"size": 30.0, "FLOPs": 1.0})
    with pytest.raises(BudgetError, match="size and FLOPs cannot be met together"):
        program(menu(rows), {"size": 3.0, "FLOPs": 3.0})


def test_the_same_pick_every_time() -> None:
    rows = [[(s, 20 - s, s * f % 7) for s in range(1, 20)] for f in range(1, 20)]
    limits = {"size": 150.0, "FLOPs": 240.0}
    assert program(menu(rows), limits) == program(menu(rows), limits)
