"""The low-rank part against full decompositions in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sprue.weights import lowrank
from sprue.weights.factor import inverse_factor, ridge_of

F64 = torch.float64


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _decaying(out: int, width: int, decay: float, seed: int = 0) -> Tensor:
    """Random singular vectors, singular values 1 / k^decay."""
    rank = min(out, width)
    left = torch.linalg.qr(_normal(out, rank, seed=seed))[0]
    right = torch.linalg.qr(_normal(width, rank, seed=seed + 1))[0]
    return (left * torch.arange(1, rank + 1, dtype=F64) ** -decay) @ right.T


def _moment(width: int) -> Tensor:
    Q = torch.linalg.qr(_normal(width, width, seed=5))[0]
    return (Q / torch.arange(1, width + 1, dtype=F64)) @ Q.T


def _loss(D: Tensor, H: Tensor, G: Tensor | None = None) -> float:
    rows = ((D @ H) * D).sum(1)
    return float((rows if G is None else rows * G).sum())


def _best(W: Tensor, H: Tensor, rank: int, G: Tensor) -> float:
    """The least sum_r G_r (D H D^T)_rr of that rank: Eckart and Young on sqrt(G) W H^(1/2)."""
    root = torch.linalg.cholesky(H)
    return float((torch.linalg.svdvals(G.sqrt()[:, None] * W @ root)[rank:] ** 2).sum())


@pytest.mark.parametrize("decay", [0.25, 0.5, 1.0])
@pytest.mark.parametrize(("out", "width", "rank"), [(80, 120, 8), (120, 80, 16), (40, 40, 1)])
@pytest.mark.parametrize("uneven", [False, True])
def test_it_is_the_best_of_its_rank(
    out: int, width: int, rank: int, decay: float, uneven: bool
) -> None:
    W, H = _decaying(out, width, decay), _moment(width)
    H += ridge_of(H, 0.01) * torch.eye(width, dtype=F64)
    G = torch.logspace(-1, 1, out, dtype=F64) if uneven else torch.ones(out, dtype=F64)
    U = torch.from_numpy(inverse_factor(H, 1e-12).copy()).float()
    L, R = lowrank.whitened(W.float(), U, rank, 0, G)
    assert L.shape == (out, rank)
    assert R.shape == (rank, width)
    loss = _loss(W - L.to(F64) @ R.to(F64), H, G)
    # three rounds of subspace iteration with 8 spare directions leave less than 0.2% where the
    # spectrum hardly decays, which is where a sketch is at its worst
    assert 1 - 1e-5 <= loss / _best(W, H, rank, G) < 1.002


def test_importance_lowers_its_own_objective() -> None:
    W, H, G = _normal(60, 50), _moment(50), torch.logspace(-2, 1, 60, dtype=F64)
    U = torch.from_numpy(inverse_factor(H, 1e-6).copy()).float()
    plain, weighted = (
        _loss(W - (L @ R).to(F64), H, G)
        for L, R in (lowrank.whitened(W.float(), U, 6, 0, g) for g in (None, G))
    )
    assert weighted < 0.9 * plain


def test_components_come_in_order_and_evenly_split() -> None:
    W, H = _decaying(60, 50, 0.5), _moment(50)
    U = torch.from_numpy(inverse_factor(H, 1e-6).copy()).float()
    L, R = lowrank.whitened(W.float(), U, 10, 0)
    torch.testing.assert_close(L.norm(dim=0), R.norm(dim=1), rtol=1e-4, atol=0)
    losses = [_loss(W - (L[:, :r] @ R[:r]).to(F64), H) for r in range(11)]
    gains = [a - b for a, b in pairwise(losses)]
    assert gains == sorted(gains, reverse=True)


@pytest.mark.parametrize("scale", [2.0**-80, 2.0**80])
def test_the_unit_of_the_moment_does_not_matter(scale: float) -> None:
    W, H = _decaying(60, 50, 0.5).float(), _moment(50).float()
    found = []
    for unit in (1.0, scale):
        U = torch.from_numpy(inverse_factor(H * unit, ridge_of(H * unit, 0.01)).copy()).float()
        found.append(lowrank.whitened(W, U, 6, 0))
    (L, R), (L_scaled, R_scaled) = found
    # LAPACK scales what is small by what is no power of two: float32 rounding, not more
    torch.testing.assert_close(L @ R, L_scaled @ R_scaled, rtol=0, atol=1e-5 * float(W.abs().max()))
    torch.testing.assert_close(L.norm(dim=0), L_scaled.norm(dim=0), rtol=1e-4, atol=0)


def test_nothing_to_find() -> None:
    L, R = lowrank.whitened(torch.zeros(20, 12), torch.eye(12), 3, 0)
    assert not (L @ R).any()
    W = _decaying(20, 12, 1.0).float()
    whole = torch.mm(*lowrank.whitened(W, torch.eye(12), 12, 0))
    torch.testing.assert_close(whole, W, rtol=1e-4, atol=1e-6)


def test_seeds_repeat_and_the_global_generator_is_untouched() -> None:
    W, U = _normal(60, 50).float(), torch.eye(50)
    before = torch.random.get_rng_state()
    once, twice, other = (lowrank.whitened(W, U, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    assert not torch.equal(once[0], other[0])


@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_a_refit_is_the_least_squares_optimum(ridge: float) -> None:
    W, R, H = _normal(30, 40), _normal(5, 40, seed=1), _moment(40)
    damped = H + ridge * torch.eye(40, dtype=F64)
    root = torch.linalg.cholesky(damped + 1e-12 * torch.eye(40, dtype=F64))
    best = torch.linalg.lstsq((R @ root).T, (W @ root).T).solution.T
    L = lowrank.refit_left(W.float(), R.float(), H.float(), ridge)
    assert L.dtype == torch.float32
    # R H R^T has a condition of some hundreds here, and H, R and their product come in float32
    torch.testing.assert_close(L.to(F64), best, rtol=1e-3, atol=1e-3 * float(best.abs().max()))
    assert _loss(W - L.to(F64) @ R, damped) <= _loss(W - best @ R, damped) * (1 + 1e-6)


def test_a_refit_of_dead_components_is_finite() -> None:
    R = torch.zeros(3, 12)
    R[0] = 1
    assert torch.isfinite(lowrank.refit_left(torch.ones(4, 12), R, torch.eye(12), 0.1)).all()
    assert torch.isfinite(
        lowrank.refit_left(torch.ones(4, 12), torch.zeros(2, 12), torch.eye(12), 0.1)
    ).all()
