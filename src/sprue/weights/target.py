"""What a matrix should be, given that its inputs are no longer the original's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sprue.weights.factor import inverse_factor, ridge_of

_ROWS = 1024  # multiplied at once


def shifted(W: Tensor, H: Tensor, C: Tensor, damping: float) -> Tensor:
    """The matrix V that minimizes E |W x - V x'|^2, x the original input, x' the one it now gets.

    V = W E[x x'^T] E[x' x'^T]^-1 (GPTAQ, Li et al. 2025, and Qronos, Zhang et al. 2025, start from
    the same regression). Damping pulls it towards W: where inputs carry no information, V = W.

    Args:
        W: float32 [out, in].
        H: E[x' x'^T], float32 [in, in].
        C: E[x x'^T], float32 [in, in].
        damping: share of H's mean diagonal.

    Returns:
        float32 [out, in].
    """
    return W + W @ correction(H, C.clone(), damping)


def correction(H: Tensor, C: Tensor, damping: float) -> Tensor:
    """What `shifted` adds to W, over W: (C - H)(H + ridge)^-1, float32 [in, in].

    One for all matrices that read the same input. Only the difference passes through float32. C is
    overwritten and becomes the result: of a wide layer it takes as much memory as the matrices.
    """
    ridge = ridge_of(H, damping)
    U = torch.from_numpy(np.asarray(inverse_factor(H, ridge), np.float32))
    C -= H
    for part in torch.split(C, _ROWS):
        part.copy_((part @ U.T) @ U)
    return C
