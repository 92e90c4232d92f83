"""Picking one candidate for each matrix under several budgets at once: an integer program.

One budget alone is a knapsack, which `solve` answers exactly and faster. With several, the linear
relaxation leaves at most as many matrices undecided as there are budgets, and HiGHS (Huangfu and
Hall 2018) closes what is left in a few branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from sprue.errors import BudgetError
from sprue.plan.solve import F64, Candidate

_GAP = 1e-4  # of the least damage, below anything that a prediction can tell apart
_FEASIBLE = 3e-6  # of a limit, which HiGHS keeps to one in a million
_NODES = 20_000  # a bound on the work that, unlike one on time, gives the same pick every time


def program(
    options: Mapping[str, Sequence[Candidate]], limits: Mapping[str, float]
) -> dict[str, Candidate]:
    """One candidate for each name: the least sum of damages within all limits, to 0.01%.

    Args:
        options: name -> candidates, at least one.
        limits: what -> the most that candidates' `cost(what)` may sum to; "size" in bits.

    Raises:
        BudgetError: no pick is within all limits; names the first that cannot be met.
    """
    rows = [_undominated(row, tuple(limits)) for row in options.values()]
    costs = {what: [[c.cost(what) for c in row] for row in rows] for what in limits}
    for what, limit in limits.items():
        least = sum(min(row) for row in costs[what])
        if least > limit:
            raise BudgetError(
                f"the {what} asked for cannot be met: at least {least / limit:.3g} times as much "
                "is needed; ask for less, or allow other patterns of zeros"
            )
    x = _solved(rows, costs, limits)
    if x is not None and _exceeds(x, costs, limits):
        x = _solved(rows, costs, {w: (1 - _FEASIBLE) * limit for w, limit in limits.items()})
    if x is None:
        raise BudgetError(
            f"{' and '.join(limits)} cannot be met together, though each alone could: give more of "
            "one of them"
        )
    picked, at = {}, 0
    for name, row in zip(options, rows, strict=True):
        picked[name] = row[int(np.argmax(x[at : at + len(row)]))]
        at += len(row)
    return picked


def _exceeds(
    x: F64, costs: Mapping[str, Sequence[Sequence[float]]], limits: Mapping[str, float]
) -> bool:
    """Whether a pick is over a limit by what HiGHS takes for rounding."""
    return any(
        float(np.concatenate([np.asarray(row) for row in costs[w]]) @ np.round(x)) > limits[w]
        for w in limits
    )


def _solved(
    rows: Sequence[Sequence[Candidate]],
    costs: Mapping[str, Sequence[Sequence[float]]],
    limits: Mapping[str, float],
) -> F64 | None:
    """Which candidates are taken, 1 or 0 for each in a row; None: there is no pick."""
    counts = [len(row) for row in rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    one = csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    # in units of the limits: sizes of 1e10 beside damages of 1e-6 would lose digits
    budgets = np.array(
        [np.concatenate([np.asarray(row) for row in costs[w]]) / limits[w] for w in limits]
    )
    damage = np.array([c.damage for row in rows for c in row])
    done = milp(
        damage / max(float(damage.max()), 1e-300),
        integrality=np.ones(len(owner)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one, 1, 1),
            LinearConstraint(budgets, -np.inf, 1.0),
        ],
        options={"mip_rel_gap": _GAP, "node_limit": _NODES, "disp": False},
    )
    return None if done.x is None else np.asarray(done.x)


def _undominated(row: Sequence[Candidate], what: Sequence[str]) -> list[Candidate]:
    """Without those that another equals or beats in every cost and in damage."""
    values = np.array([[c.damage, *(c.cost(w) for w in what)] for c in row])
    kept = []
    for i, mine in enumerate(values):
        no_worse = (values <= mine).all(1)
        better = no_worse & ((values < mine).any(1) | (np.arange(len(values)) < i))
        if not better.any():
            kept.append(row[i])
    return kept
