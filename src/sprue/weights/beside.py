"""The low-rank part beside a grid: found first, stored in few bits, fitted again at the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sprue.weights import factors, lowrank
from sprue.weights.packed import dense
from sprue.weights.problem import Problem

RANKS = (4, 8, 16, 32, 64, 128)


def sketch(p: Problem, U: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    return lowrank.whitened(p.W, U, rank, seed, torch.from_numpy(p.importance))


def as_stored(L: Tensor, R: Tensor, bits: int) -> Tensor:
    """L R as it will be read back."""
    if not len(R):
        return torch.zeros(len(L), R.shape[1])
    meta = {"grid": "none", "shape": [len(L), R.shape[1]]}
    return torch.mm(*factors.split(*factors.attach(meta, {}, L, R, bits)))


def best_refit(
    p: Problem,
    meta: dict[str, Any],
    tensors: dict[str, Tensor],
    L: Tensor,
    R: Tensor,
    bits: int,
    refits: int,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The factors beside what is stored, fitted again to what it left; the best iterate."""
    if not len(R):
        return dict(meta), dict(tensors)
    left_over = p.W - dense(meta, tensors)
    best = factors.attach(meta, tensors, L, R, bits)
    stored, kept = factors.split(*best)
    RH = kept @ p.H  # R stays as it is stored, so that L alone decides
    cross, gram = left_over @ RH.T, RH @ kept.T
    error = _objective(p, stored, cross, gram)
    for _ in range(refits):
        L = lowrank.refit_left(left_over, kept, p.H, p.ridge)
        trial = factors.attach(meta, tensors, L, R, bits)
        now = _objective(p, factors.split(*trial)[0], cross, gram)
        if now >= error:
            break
        best, error = trial, now
    return best


def _objective(p: Problem, L: Tensor, cross: Tensor, gram: Tensor) -> float:
    """tr(G (Z - L R) H (Z - L R)^T) - tr(G Z H Z^T), with `cross` Z H R^T and `gram` R H R^T.

    What L changes, without the products over all inputs that the whole would take.
    """
    rows = ((L @ gram - 2 * cross) * L).sum(1).to(torch.float64)
    return float(rows @ torch.from_numpy(p.importance))
