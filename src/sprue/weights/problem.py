"""One matrix and what decides its error, checked; errors by the second moment of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprue.weights.factor import Factor, finite, ridge_of

_ROWS = 2048  # worked on at once: copies of all of an embedding would take much memory
_LARGEST = 1e15  # squares of weights must stay within float32


@dataclass(frozen=True)
class Problem:
    """One matrix and what decides its error.

    Attributes:
        W: float32 [out, in].
        H: float32 [in, in].
        importance: float64 [out] > 0, mean 1; the diagonal of G.
        ridge: added to the diagonal of H.
        mask: bool [out, in], what Q may hold beside zeros; None: all.
    """

    W: Tensor
    H: Tensor
    importance: NDArray[np.float64]
    ridge: float
    mask: Tensor | None = None


def relative_error(W: Tensor, approximation: Tensor, H: Tensor) -> float:
    """tr(D H D^T) / tr(W H W^T) with D = W - W^; 0 where both are 0."""
    parts = list(zip(in_parts(W), in_parts(approximation), strict=True))
    error = sum(squared(a - b, H) for a, b in parts)
    norm = sum(squared(a, H) for a, _ in parts)
    return over(error, norm)


def over(error: float, norm: float) -> float:
    return error / norm if norm > 0 else float(error > 0)


def in_parts(x: Tensor, rows: int = _ROWS) -> list[Tensor]:
    return [x[a : a + rows] for a in range(0, len(x), rows)]


def squared(D: Tensor, H: Tensor) -> float:
    return float(((D @ H) * D).sum(dtype=torch.float64))


def checked(W: Tensor, H: Tensor, importance: Tensor | None, damping: float) -> Problem:
    W, H = W.detach(), H.detach()
    if W.ndim != 2 or 0 in W.shape:
        raise ValueError(f"expected a matrix [out, in], received {list(W.shape)}")
    if H.shape != (W.shape[1], W.shape[1]):
        raise ValueError(f"expected H [{W.shape[1]}, {W.shape[1]}], received {list(H.shape)}")
    if not finite(W):
        raise ValueError("the weights hold NaN or infinity")
    if not finite(H):
        raise ValueError("the second moment of the inputs holds NaN or infinity")
    largest = max(abs(float(end)) for end in torch.aminmax(W))
    if largest > _LARGEST:
        raise ValueError(f"the weights reach {largest:.3g}: expected at most {_LARGEST:g}")
    H = H.to(torch.float32)
    if not _symmetric(H):
        raise ValueError("the second moment of the inputs is not symmetric")
    W = W.to(torch.float32)
    return Problem(W, H, normalized(len(W), importance), ridge_of(H, damping))


def _symmetric(H: Tensor) -> bool:
    """Whether H equals its transpose but for rounding, compared in parts: H may be large."""
    tolerance = 1e-3 * float(H.diagonal().abs().max())
    parts = zip(in_parts(H, 256), in_parts(H.T, 256), strict=True)
    return all(float((a - b).abs().max()) <= tolerance for a, b in parts)


def normalized(count: int, given: Tensor | None) -> NDArray[np.float64]:
    """Importances [count] over their mean, none near 0; None: all 1.

    Raises:
        ValueError: wrong length, negative, NaN or infinite.
    """
    if given is None:
        return np.ones(count)
    if given.shape != (count,):
        raise ValueError(f"expected {count} importances, received {list(given.shape)}")
    g = given.detach().cpu().to(torch.float64).numpy()
    if not np.isfinite(g).all() or g.min() < 0:
        raise ValueError("importances must be finite and not negative")
    # rows that hardly counted in the calibration text may count in another
    return np.maximum(g / g.mean(), 0.02) if g.any() else np.ones(count)


def energy_of(W: Tensor, H: Tensor, importance: NDArray[np.float64]) -> float:
    """tr(G W H W^T)."""
    rows = torch.cat([((part @ H) * part).sum(1).to(torch.float64) for part in in_parts(W)])
    return float(rows @ torch.from_numpy(importance))


def single(U: Factor) -> Tensor:
    """In float32; not copied where it is."""
    return torch.from_numpy(np.asarray(U, np.float32))
