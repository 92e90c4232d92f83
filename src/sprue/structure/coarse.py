"""Weights on coarse grids, one step for each output: stored in 4 or 6 bits, computed with in 8."""

from __future__ import annotations

import torch
from torch import Tensor

from sprue.weights.factor import inverse_factor, ridge_of
from sprue.weights.sweep import on_integers

BITS = (4, 6)  # of which engines have types
_DAMPING = 0.01


def on_grid(W: Tensor, H: Tensor, bits: int) -> Tensor:
    """W on a grid, each column's rounding made up for by those after it (GPTQ).

    Args:
        W: floating [out, in].
        H: floating [in, in], second moment of the inputs.
        bits: of the grid, which has a step and a whole zero point for each row.

    Returns:
        float64 [out, in].
    """
    exact = H.to(torch.float64)
    U = torch.from_numpy(inverse_factor(exact, ridge_of(exact, _DAMPING)))
    codes, scale, zero, _ = on_integers(
        W.to(torch.float64), U, bits, None, False, importance=exact.diagonal()
    )
    return (codes.to(torch.float64) - zero.to(torch.float64)) * scale.to(torch.float64)
