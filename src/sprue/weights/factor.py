"""The triangular factor of an inverse second moment: what error feedback goes through."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

F64 = NDArray[np.float64]
Factor = NDArray[np.floating[Any]]

# Beyond this width single precision comes first: the factor is the largest thing in memory there.
# What rounding then adds to H is of the order of the damping, below anything that matters.
WIDE = 4096
# Shares of H's mean diagonal that are added on top, one after the other, where rounding has left
# the sum indefinite. More is never a matter of rounding.
_EXTRA = (0.0, 1e-4, 1e-3, 1e-2)
_PIECE = 1 << 20  # elements moved at once
_BLOCK = 256  # rows mirrored at once


def finite(x: Tensor) -> bool:
    """Whether x holds neither NaN nor infinity."""
    low, high = torch.aminmax(x)  # ten times faster than isfinite; NaN comes through
    return math.isfinite(low) and math.isfinite(high)


def inverse_factor(H: Tensor, ridge: float | F64) -> Factor:
    """U [in, in], upper triangular, with U^T U = (H + diag(ridge))^-1.

    One Cholesky factorization of the reversed matrix and one triangular inverse, in place: with J
    the reversal and J H J = M M^T, U = J M^-1 J. GPTQ (Frantar et al. 2022, section 4, step 3)
    inverts H first and factors the inverse, which costs more and loses half of the digits.

    Args:
        H: second moment, symmetric positive semidefinite, floating [in, in].
        ridge: added to the diagonal, > 0; a number or one for each input. Up to a hundredth of
            the mean of H's diagonal is added on top where rounding leaves the sum indefinite.

    Returns:
        float64; float32 for more than `WIDE` inputs, unless single precision does not suffice.

    Raises:
        ValueError: H holds NaN or infinity, or stays indefinite.
    """
    if not finite(H):
        raise ValueError("the second moment of the inputs holds NaN or infinity")
    mean = abs(float(H.diagonal().to(torch.float64).mean()))
    plain = H.detach().cpu().numpy()
    if len(H) > WIDE:
        U = _factor(plain, ridge, np.float32)
        if U is not None:
            return U
    for extra in _EXTRA:
        U = _factor(plain, np.asarray(ridge) + extra * mean, np.float64)
        if U is not None:
            return U
    raise ValueError(
        "the second moment of the inputs is not positive semidefinite: expected the mean of x x^T "
        "over inputs x, which always is"
    )


def inverse(A: Tensor) -> Tensor:
    """A^-1 of A [n, n], float32, symmetric positive definite; A is overwritten and becomes it.

    Raises:
        ValueError: A is not positive definite.
    """
    # LAPACK reads columns first: what is its lower triangle is the upper one here
    columns = A.numpy().T
    L, failed = lapack.spotrf(columns, lower=1, clean=0, overwrite_a=1)
    if not failed:
        _, failed = lapack.spotri(L, lower=1, overwrite_c=1)
    if failed:
        raise ValueError("expected a positive definite matrix to invert")
    for a in range(0, len(A), _BLOCK):
        b = a + _BLOCK
        A[a:b, :a] = A[:a, a:b].T
        upper = A[a:b, a:b].triu()
        A[a:b, a:b] = upper + upper.triu(1).T
    return A


def _factor(
    H: Factor, ridge: float | F64, dtype: type[np.float32] | type[np.float64]
) -> Factor | None:
    """U in one array of its own; None where the matrix is not positive definite."""
    single = dtype is np.float32
    factorize, invert = (lapack.spotrf, lapack.strtri) if single else (lapack.dpotrf, lapack.dtrtri)
    A: Any = np.array(H[::-1, ::-1], dtype=dtype, order="C")
    A[np.diag_indices(len(A))] += np.broadcast_to(ridge, len(A))[::-1]
    # LAPACK reads columns first: the transpose of a symmetric matrix is itself, not copied
    M, failed = factorize(A.T, lower=1, clean=1, overwrite_a=1)
    if failed:
        return None
    inverse, _ = invert(M, lower=1, overwrite_c=1)
    rows: Factor = inverse.T
    _reverse(rows.reshape(-1))
    return rows.T


def _reverse(flat: Factor) -> None:
    """Turn an array around in place, piece by piece."""
    half = len(flat) // 2
    for a in range(0, half, _PIECE):
        b = min(a + _PIECE, half)
        front, back = flat[a:b], flat[len(flat) - b : len(flat) - a]
        kept = front[::-1].copy()
        front[:] = back[::-1]
        back[:] = kept


def ridge_of(H: Tensor, damping: float) -> float:
    """`damping` times the mean of H's diagonal; 1 where H is zero (inputs never seen).

    Raises:
        ValueError: the mean is negative.
    """
    mean = float(H.diagonal().to(torch.float64).mean())
    if mean < 0:
        raise ValueError(
            f"the second moment of the inputs has {mean:.3g} for a mean diagonal: expected the "
            "mean of x x^T over inputs x, whose diagonal is never negative"
        )
    return damping * mean if mean > 0 else 1.0
