"""What a matrix will suffer at each rate, said before it is coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sprue.weights import coding, rates
from sprue.weights.choice import Choice
from sprue.weights.factor import inverse_factor, ridge_of
from sprue.weights.grids import trellis
from sprue.weights.problem import Problem, normalized
from sprue.weights.sparse import pruned_samples


@dataclass(frozen=True)
class Outlook:
    """The predicted weighted error of one matrix on the trellis, by rate.

    Attributes:
        shape: (out, in).
        spread: what decides the column rates.
        scale: what one unit of error, summed over columns, costs (the unit of the importances).
        rows: float64 > 0, how unevenly rows share that cost, in any unit; a path spends its
            freedom on those that count. One entry: all alike.
        broken: what zeros alone do, in the same unit.
        beside: bits a weight that mask and factors take.
        kept: share of the weights that are not zero.
    """

    shape: tuple[int, int]
    spread: rates.Spread
    scale: float
    rows: rates.F64 = field(default_factory=lambda: np.ones(1))
    broken: float = 0.0
    beside: float = 0.0
    kept: float = 1.0

    @property
    def side_bits(self) -> float:
        """Bits a weight of everything but codes."""
        return coding.side_bits(self.shape) + self.beside

    def damage(self, bits: float) -> float:
        """sum_r G_r (D H D^T)_rr at `bits` a weight, everything stored counted."""
        code = bits - self.side_bits
        if code <= 0:
            return float("inf")
        at, damage = self._curve
        return self.broken + self.scale * float(np.exp(np.interp(code, at, np.log(damage))))

    @cached_property
    def _curve(self) -> tuple[rates.F64, rates.F64]:
        at, damage = rates.curve(self.spread)
        return at, np.maximum(damage * rates.unevenness(self.rows, at / self.kept), 1e-300)


def outlook(W: Tensor, H: Tensor, importance: Tensor, damping: float) -> Outlook:
    """The outlook of W [out, in] under H [in, in] and importances G [out] >= 0, not normalized."""
    U = inverse_factor(H, ridge_of(H, damping))
    W = W.to(torch.float32)
    row = coding.row_steps(W)
    share = normalized(len(W), importance) * np.exp2(2 * row / trellis.ROW_OCTAVE)
    scale = float(importance.to(torch.float64).mean()) * float(share.sum())
    return Outlook((len(W), W.shape[1]), coding.spread_of(W, U, row), scale, share)


def with_zeros(
    W: Tensor, H: Tensor, importance: Tensor, menu: Sequence[Choice], seed: int
) -> list[Outlook]:
    """The outlook of W with zeros, for each of these choices (pattern, sparsity, rank, damping).

    Zeros are found as they will be, on some of the rows: nothing about them is guessed.
    """
    if not menu:
        return []
    W = W.to(torch.float32)
    problem = Problem(*(W, H, normalized(len(W), importance), ridge_of(H, menu[0].damping)))
    mean = float(importance.to(torch.float64).mean())
    found = []
    for part in pruned_samples(problem, menu, seed):
        steps = np.exp2(2 * part.row / trellis.ROW_OCTAVE) * part.importance
        found.append(
            Outlook(
                (len(W), W.shape[1]),
                part.spread,
                mean * part.times * float(steps.sum()),
                steps,
                mean * part.times * part.broken,
                part.beside,
                part.kept,
            )
        )
    return found
