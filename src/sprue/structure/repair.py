"""Which units a network misses least once what stays has made up for them, and how it does.

A unit is read by matrices W with inputs of second moment H. Without the columns R of W, the least
squares over what stays, K, is W_K + W_R H_RK H_KK^-1, and what is lost of the outputs

    tr(G W_R (H_RR - H_RK H_KK^-1 H_KR) W_R^T) = tr(G W_R [(H^-1)_RR]^-1 W_R^T)

(Optimal Brain Surgeon: Hassibi and Stork 1993; by blocks, as here: ZipLM, Kurtic et al. 2023,
section 3). Units leave one after another, each time the one that then costs least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprue.weights.factor import ridge_of

_ONE_BY_ONE = 256  # units of a group
_ROUNDS = 100  # in which about two thirds of a larger group leave
_COUPLED = 0.3  # above that, a unit's cost changes when the other leaves


@dataclass(frozen=True)
class Reader:
    """A matrix that reads units.

    Attributes:
        W: float [out, in].
        H: float [in, in], second moment of its inputs.
        importance: float [out] >= 0, what a squared error of each output costs.
        columns: int64 [units, k], the columns in which it reads each unit.
    """

    W: Tensor
    H: Tensor
    importance: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Elimination:
    """The order in which units leave.

    Attributes:
        order: units, the first to leave first; all but one.
        damage: float64, for each the weighted error once it and all before it have left.
    """

    order: tuple[int, ...]
    damage: tuple[float, ...]


class _Left:
    """What is left of a reader, float64: its matrix, refitted, and the inverse of H."""

    def __init__(self, reader: Reader, damping: float) -> None:
        H = reader.H.to(torch.float64)
        H = H + torch.eye(len(H), dtype=H.dtype) * ridge_of(H, damping)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        self.W = reader.W.to(torch.float64).clone()
        self._g = reader.importance.to(torch.float64)
        self._columns = reader.columns

    def costs(self) -> Tensor:
        """Of each unit, should it be the next."""
        blocks = self.inverse[self._columns[:, :, None], self._columns[:, None, :]]
        W = self.W[:, self._columns]  # [out, units, k]
        # units that have left have an inverse of 1 and no weight: they cost nothing
        solved = torch.linalg.solve(blocks, W.permute(1, 2, 0))  # [units, k, out]
        return torch.einsum("ouk,uko,o->u", W, solved, self._g)

    def leave(self, units: Tensor) -> float:
        """What stays makes up for them; the weighted error that this adds."""
        columns = self._columns[units].flatten()
        block = self.inverse[columns[:, None], columns]
        rows = self.inverse[columns]
        W = self.W[:, columns]
        solved = torch.linalg.solve(block, torch.cat((rows, W.T), 1))
        added = torch.einsum("oc,co,o->", W, solved[:, rows.shape[1] :], self._g)
        solved = solved[:, : rows.shape[1]]
        self.W -= W @ solved
        self.inverse -= rows.T @ solved
        self.W[:, columns] = 0
        self.inverse[columns] = 0
        self.inverse[:, columns] = 0
        self.inverse[columns, columns] = 1
        return float(added)

    def coupled(self, unit: int, others: Tensor) -> float:
        """How much the cost of a unit hangs on others: a correlation of the inverse, at most 1."""
        if not len(others):
            return 0.0
        mine, theirs = self._columns[unit], self._columns[others].flatten()
        scale = self.inverse.diagonal().clamp(min=1e-30).rsqrt()
        between = self.inverse[mine[:, None], theirs] * scale[mine, None] * scale[theirs]
        return float(between.abs().max())


def eliminate(readers: Sequence[Reader], damping: float = 1e-4) -> Elimination:
    """The order in which units leave that all of the readers read.

    They leave one by one; where there are many, several at once that hardly depend on one another.
    Damages are exact for whichever have left, and interpolated among those that left at once.

    Args:
        readers: at least one; the same number of units in all.
        damping: added to the diagonal of each H, as a share of its mean.
    """
    left = [_Left(reader, damping) for reader in readers]
    count = len(readers[0].columns)
    gone = torch.zeros(count, dtype=torch.bool)
    order: list[int] = []
    damage: list[float] = []
    while len(order) < count - 1:
        costs = torch.stack([one.costs() for one in left]).sum(0)
        costs[gone] = torch.inf
        at_once = 1 if count <= _ONE_BY_ONE else max(1, (count - len(order)) // _ROUNDS)
        units = _independent(left, costs, min(at_once, count - 1 - len(order)))
        before = damage[-1] if damage else 0.0
        added = sum(one.leave(units) for one in left)
        shares = costs[units].clamp(min=1e-30).cumsum(0)
        damage += [before + added * float(share / shares[-1]) for share in shares]
        order += units.tolist()
        gone[units] = True
    return Elimination(tuple(order), tuple(damage))


def _independent(left: Sequence[_Left], costs: Tensor, count: int) -> Tensor:
    """The cheapest, up to so many, without those that depend much on ones chosen already."""
    cheapest = costs.argsort(stable=True)[: 2 * count]
    chosen = cheapest[:1]
    for unit in cheapest[1:]:
        if len(chosen) == count or not torch.isfinite(costs[unit]):
            break
        if max(one.coupled(int(unit), chosen) for one in left) < _COUPLED:
            chosen = torch.cat((chosen, unit[None]))
    return chosen


def refitted(W: Tensor, H: Tensor, stay: Tensor, damping: float = 1e-4) -> Tensor:
    """The columns of W that stay, made up for those that do not.

    Args:
        W: float [out, in].
        H: float [in, in].
        stay: int64, columns.
        damping: as for `eliminate`.

    Returns:
        [out, len(stay)], of the dtype of W.
    """
    exact = H.to(torch.float64)
    exact = exact + torch.eye(len(exact), dtype=exact.dtype) * ridge_of(exact, damping)
    V = W.to(torch.float64)
    solved = torch.linalg.solve(exact[stay[:, None], stay], exact[stay] @ V.T)
    made: Tensor = solved.T.to(W.dtype)
    return made
