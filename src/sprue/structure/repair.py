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

    def leave(self, unit: int) -> None:
        """What stays makes up for it."""
        columns = self._columns[unit]
        block = self.inverse[columns[:, None], columns]
        rows = self.inverse[columns]
        solved = torch.linalg.solve(block, rows)
        self.W -= self.W[:, columns] @ solved
        self.inverse -= rows.T @ solved
        self.W[:, columns] = 0
        self.inverse[columns] = 0
        self.inverse[:, columns] = 0
        self.inverse[columns, columns] = 1


def eliminate(readers: Sequence[Reader], damping: float = 1e-4) -> Elimination:
    """The order in which units leave that all of the readers read.

    Args:
        readers: at least one; the same number of units in all.
        damping: added to the diagonal of each H, as a share of its mean.
    """
    left = [_Left(reader, damping) for reader in readers]
    count = len(readers[0].columns)
    gone = torch.zeros(count, dtype=torch.bool)
    order: list[int] = []
    damage: list[float] = []
    for _ in range(count - 1):
        costs = torch.stack([one.costs() for one in left]).sum(0)
        costs[gone] = torch.inf
        unit = int(costs.argmin())
        damage.append(float(costs[unit]) + (damage[-1] if damage else 0.0))
        order.append(unit)
        gone[unit] = True
        for one in left:
            one.leave(unit)
    return Elimination(tuple(order), tuple(damage))


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
