"""The triangular factor of an inverse second moment: what error feedback goes through."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

F64 = NDArray[np.float64]

# Shares of H's mean diagonal that are added on top, one after the other, where rounding has left
# the sum indefinite. More is never a matter of rounding.
_EXTRA = (0.0, 1e-4, 1e-3, 1e-2)


def inverse_factor(H: Tensor, ridge: float | F64) -> F64:
    """U [in, in] float64, upper triangular, with U^T U = (H + diag(ridge))^-1.

    One Cholesky factorization of the reversed matrix and one triangular inverse, in place: with J
    the reversal and J H J = M M^T, U = J M^-1 J. GPTQ (Frantar et al. 2022, section 4, step 3)
    inverts H first and factors the inverse, which costs more and loses half of the digits.

    Args:
        H: second moment, symmetric positive semidefinite, floating [in, in].
        ridge: added to the diagonal, > 0; a number or one for each input. Up to a hundredth of
            the mean of H's diagonal is added on top where rounding leaves the sum indefinite.

    Raises:
        ValueError: H holds NaN or infinity, or stays indefinite.
    """
    low, high = torch.aminmax(H)  # ten times faster than isfinite; NaN comes through
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("the second moment of the inputs holds NaN or infinity")
    mean = abs(float(H.diagonal().to(torch.float64).mean()))
    for extra in _EXTRA:
        A = np.array(H.detach().cpu().numpy()[::-1, ::-1], dtype=np.float64, order="C")
        A[np.diag_indices_from(A)] += np.broadcast_to(ridge, len(A))[::-1] + extra * mean
        # LAPACK reads columns first: the transpose of a symmetric matrix is itself, not copied
        M, failed = lapack.dpotrf(A.T, lower=1, clean=1, overwrite_a=1)
        if not failed:
            inverse, _ = lapack.dtrtri(M, lower=1, overwrite_c=1)
            return np.asarray(inverse[::-1, ::-1])
    raise ValueError(
        "the second moment of the inputs is not positive semidefinite: expected the mean of x x^T "
        "over inputs x, which always is"
    )


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
