"""Activation sparsity: inputs of a matrix that are small count as zero.

    s(x)_i = x_i where |x_i| > t, else 0        y = W s(x)

with one threshold t for each matrix, as in TEAL (Liu et al. 2024, arXiv:2408.14690, section 4) and,
for one matrix of a gated layer, CATS (Lee et al. 2024, arXiv:2404.08763). Any packed matrix can
carry one; the grid "columns" is the one that then reads less.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sprue.weights.grids import Meta


def attach(meta: Meta, value: float, zeros: float) -> dict[str, Any]:
    """The meta of a packed matrix, with a threshold.

    Args:
        meta: of the matrix.
        value: inputs of no larger magnitude count as zero; in the inputs' own unit.
        zeros: the share of inputs that do, as it was measured when the threshold was set.

    Raises:
        ValueError: a threshold or a share that is not a number of 0 or more, a share above 1.
    """
    if not (math.isfinite(value) and value >= 0 and 0 <= zeros <= 1):
        raise ValueError(
            f"expected a finite threshold of 0 or more and a share from 0 to 1, received {value} "
            f"and {zeros}"
        )
    return {**meta, "threshold": {"value": value, "zeros": zeros}}


def dropped(x: Tensor, value: float) -> Tensor:
    """Which inputs count as zero, bool of x's shape; NaN and infinity never do."""
    return x.abs() <= value


def applied(x: Tensor, value: float) -> Tensor:
    """s(x): a new tensor of x's shape and dtype. Gradients pass where x stays."""
    return nn.functional.hardshrink(x, value)


def at_share(x: Tensor, share: float) -> float:
    """The threshold that a share of x does not exceed, as near as its values allow.

    Args:
        x: any shape, finite, not empty.
        share: from 0 (nothing but what is zero already) to 1 (everything).

    Raises:
        ValueError: a share outside 0 .. 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share from 0 to 1, received {share}")
    rank = round(share * x.numel())
    return float(torch.kthvalue(x.abs().flatten(), rank).values) if rank else 0.0
