"""The low-rank part: the best rank-r matrix in the geometry of the inputs, found from a sketch."""

from __future__ import annotations

import torch
from torch import Tensor

_OVERSAMPLE = 8
_ITERATIONS = 3
_TINY = 1e-30


def whitened(
    W: Tensor, U: Tensor, rank: int, seed: int, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """L [out, rank], R [rank, in] that minimize tr(G (W - L R) H (W - L R)^T), components in order.

    With H^-1 = U^T U, W U^-1 is the matrix whose plain singular value decomposition solves the
    weighted problem (CALDERA, Saha et al. 2024, section 4). Its leading part comes from randomized
    subspace iteration (Halko et al. 2011, algorithm 4.4): a full decomposition of a wide layer
    would take longer than all the rest. Each component has the same norm in L and R, whatever the
    unit of H: neither factor leaves the range of the float16 scales that it is stored with.

    Args:
        W: float32 [out, in].
        U: float32 [in, in] upper triangular, U^T U = H^-1.
        rank: at most min(out, in).
        seed: of the sketch.
        importance: diagonal of G, float [out] > 0; None: all 1.
    """
    scale = torch.ones(len(W)) if importance is None else importance.to(torch.float32).sqrt()
    X = torch.linalg.solve_triangular(U, scale[:, None] * W, upper=True, left=False)
    left, s, right = _leading(X, rank, seed)
    L, R = left * s / scale[:, None], right @ U
    even = (R.norm(dim=1) / L.norm(dim=0).clamp(min=_TINY)).sqrt().clamp(min=_TINY)
    return L * even, R / even[:, None]


def refit_left(W: Tensor, R: Tensor, H: Tensor, ridge: float) -> Tensor:
    """L [out, rank] that minimizes tr((W - L R) H (W - L R)^T) for a given R [rank, in]."""
    RH = R @ H + ridge * R
    gram = (RH @ R.T).to(torch.float64)
    gram.diagonal().add_(1e-9 * gram.diagonal().mean().clamp(min=1e-30))
    L: Tensor = torch.linalg.solve(gram, (RH @ W.T).to(torch.float64)).T.to(torch.float32)
    return L


def _leading(X: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    width = min(rank + _OVERSAMPLE, *X.shape)
    generator = torch.Generator().manual_seed(seed)
    Q = X @ torch.randn(X.shape[1], width, generator=generator)
    for _ in range(_ITERATIONS):
        Q = torch.linalg.qr(X.T @ torch.linalg.qr(Q)[0])[0]
        Q = X @ Q
    Q = torch.linalg.qr(Q)[0]
    left, s, right = torch.linalg.svd(Q.T @ X, full_matrices=False)
    return (Q @ left)[:, :rank], s[:rank], right[:rank]
