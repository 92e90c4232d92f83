"""Picking one candidate for each matrix under a budget, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from sprue.errors import BudgetError

_GAP = 1e-5


@dataclass(frozen=True)
class Candidate:
    """One way to store a matrix.

    Attributes:
        bits: bits a weight of everything stored.
        size: the same in bits for the whole matrix.
        damage: predicted, in nats per token.
    """

    bits: float
    size: float
    damage: float


def solve(options: Mapping[str, Sequence[Candidate]], budget: float) -> dict[str, Candidate]:
    """One candidate for each name: the least sum of damages whose sizes sum to at most `budget`.

    A multiple-choice knapsack as a mixed-integer program, solved by HiGHS (Huangfu and Hall 2018)
    to a relative gap of 1e-5.

    Args:
        options: name -> candidates.
        budget: bits.

    Raises:
        BudgetError: not even the smallest candidates fit.
    """
    least = sum(min(c.size for c in row) for row in options.values())
    if least > budget:
        raise BudgetError(
            f"the budget leaves {budget / 8:,.0f} bytes for the matrices, and they take at least "
            f"{least / 8:,.0f}: give more"
        )
    flat = [(name, c) for name, row in options.items() for c in row]
    owner = np.repeat(np.arange(len(options)), [len(row) for row in options.values()])
    columns = np.arange(len(flat))
    once = csr_array((np.ones(len(flat)), (owner, columns)))
    size = np.array([c.size for _, c in flat]) / max(budget, 1)
    damage = np.array([c.damage for _, c in flat])
    result = milp(
        damage / max(damage.max(), 1e-300),
        constraints=[LinearConstraint(once, 1, 1), LinearConstraint(size[None], -np.inf, 1)],
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": _GAP},
    )
    if result.x is None:
        raise BudgetError(f"no combination was found under the budget ({result.message})")
    return {name: c for (name, c), x in zip(flat, result.x, strict=True) if x > 0.5}
