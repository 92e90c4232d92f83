"""Zeros: SparseGPT and Wanda as their papers write them, and the joint search against both."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from sprue.weights import patterns, sweep, zeros
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose
from sprue.weights.factor import inverse_factor, ridge_of
from sprue.weights.packed import dense

F64 = torch.float64


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _moment(width: int, seed: int = 1, decay: float = 1.0) -> Tensor:
    """Second moment of inputs whose principal components have the variances 1 / k^decay."""
    Q = torch.linalg.qr(_normal(width, width, seed=seed))[0]
    return (Q * torch.arange(1, width + 1, dtype=F64) ** -decay) @ Q.T


def _loss(W: Tensor, V: Tensor, H: Tensor) -> float:
    D = W.to(F64) - V.to(F64)
    return float(((D @ H.to(F64)) * D).sum())


def _task(
    W: Tensor, H: Tensor, text: str = "unstructured", share: float = 0.5, damping: float = 0.01
) -> zeros.Task:
    W, H = W.float(), H.float()
    pattern = patterns.parse(text)
    return zeros.Task(W, H, torch.ones(len(W)), ridge_of(H, damping), pattern, share)


def _sparsegpt(
    W: Tensor, H: Tensor, damping: float, share: float, keep: tuple[int, int] | None, block: int
) -> tuple[Tensor, Tensor]:
    """(W^, mask): algorithm 1 of Frantar and Alistarh 2023, column by column, in float64.

    The mask of `block` columns (B_s), or of M where N:M is asked for, is chosen when the first of
    them is reached, by w^2 / [H^-1]_cc of the Cholesky factor, as their section 3.3 has it.
    """
    W, (out, width) = W.clone(), W.shape
    A = H + damping * H.diagonal().mean() * torch.eye(width, dtype=F64)
    U = torch.linalg.cholesky(torch.linalg.inv(A), upper=True)
    mask = torch.ones(out, width, dtype=torch.bool)
    together = keep[1] if keep else block
    for j in range(width):
        if j % together == 0:
            here = slice(j, min(j + together, width))
            score = W[:, here] ** 2 / U.diagonal()[here] ** 2
            mask[:, here] = _highest_groups(score, keep) if keep else _highest(score, share)
        error = torch.where(mask[:, j], 0, W[:, j]) / U[j, j]
        W[:, j:] -= error[:, None] * U[j, j:]
    return W * mask, mask


def _highest(score: Tensor, share: float) -> Tensor:
    order = score.flatten().argsort(stable=True)
    mask = torch.ones(score.numel(), dtype=torch.bool)
    mask[order[: round(share * score.numel())]] = False
    return mask.view(score.shape)


def _highest_groups(score: Tensor, keep: tuple[int, int]) -> Tensor:
    stay = -(-score.shape[1] * keep[0] // keep[1])  # of a shorter last group, no smaller share
    mask = torch.zeros(score.shape, dtype=torch.bool)
    return mask.scatter_(1, score.argsort(1, descending=True)[:, :stay], True)


@pytest.mark.parametrize("width", [96, 300, 130])
@pytest.mark.parametrize(("text", "share"), [("unstructured", 0.5), ("unstructured", 0.7)])
def test_the_sweep_is_sparsegpt(text: str, share: float, width: int) -> None:
    W, H = _normal(24, width), _moment(width)
    U = torch.from_numpy(inverse_factor(H, ridge_of(H, 0.01)).copy())
    asked = sweep.Zeros(patterns.parse(text), share, torch.ones(24))
    V, mask = sweep.on_values(W, U, asked)
    naive, naive_mask = _sparsegpt(W, H, 0.01, share, None, sweep.BLOCK)
    assert torch.equal(mask, naive_mask)
    # float64 throughout: what differs is the order of sums
    torch.testing.assert_close(V, naive, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [96, 130, 301])
@pytest.mark.parametrize("keep", [(2, 4), (4, 8), (1, 3)])
def test_the_sweep_is_sparsegpt_in_groups(keep: tuple[int, int], width: int) -> None:
    """Widths that the group does not divide among them."""
    W, H = _normal(24, width), _moment(width)
    U = torch.from_numpy(inverse_factor(H, ridge_of(H, 0.01)).copy())
    asked = sweep.Zeros(patterns.parse(f"{keep[0]}:{keep[1]}"), 0.0, torch.ones(24))
    V, mask = sweep.on_values(W, U, asked)
    naive, naive_mask = _sparsegpt(W, H, 0.01, 0, keep, sweep.BLOCK)
    assert torch.equal(mask, naive_mask)
    torch.testing.assert_close(V, naive, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep", [None, (2, 4)])
def test_wanda_is_its_formula(keep: tuple[int, int] | None) -> None:
    """Sun et al. 2023, equation 1: |W_ij| ||X_j||_2, compared within the row; W stays."""
    X, W = _normal(400, 48, seed=3) * torch.linspace(0.1, 3, 48, dtype=F64), _normal(32, 48)
    score = W.abs() * X.norm(dim=0)
    if keep is None:
        order = score.argsort(1)[:, :24]
        mask = torch.ones(32, 48, dtype=torch.bool).scatter_(1, order, False)
    else:
        mask = _highest_groups(score.view(-1, 4), keep).view(32, 48)
    text = "unstructured" if keep is None else "2:4"
    found = zeros.by_score(_task(W, X.T @ X / 400, text))
    assert torch.equal(found.mask, mask)
    assert torch.equal(found.V, W.float() * mask)


CASES = [("unstructured", 0.5), ("unstructured", 0.8), ("2:4", 0.5), ("4x2", 0.5)]


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("text", "share"), CASES)
def test_jointly_beats_sparsegpt_beats_wanda(text: str, share: float, decay: float) -> None:
    W, H = _normal(96, 160).float(), _moment(160, decay=decay).float()
    sparsity = {} if ":" in text else {"sparsity": share}
    wanda, sparsegpt, joint = (
        decompose(W, H, Choice("raw", pattern=text, damping=0.001, **sparsity, **how)).error
        for how in ({"feedback": False}, {"zeros": "sweep"}, {})
    )
    assert joint < 0.97 * sparsegpt
    assert sparsegpt < 0.97 * wanda
    if decay >= 1:  # the more inputs tell of one another, the more there is to make up for
        assert joint < 0.8 * sparsegpt


def test_a_tiny_mask_is_nearly_the_best_of_all() -> None:
    """4 of 8 weights, every mask tried with its exact least squares."""
    for seed in range(6):
        W, H = _normal(1, 8, seed=seed), _moment(8, seed=seed + 50, decay=1.5)
        task = _task(W, H, damping=1e-6)
        found = zeros.jointly(task, 6)[0]
        costs = sorted(_least(W, H, torch.tensor(kept)) for kept in combinations(range(8), 4))
        # of 70 masks, one of the first few
        assert _loss(W, found.V, H) <= costs[4] * 1.01


def _least(W: Tensor, H: Tensor, kept: Tensor) -> float:
    V = torch.zeros_like(W)
    V[0, kept] = torch.linalg.solve(H[kept][:, kept], H[kept] @ W[0])
    return _loss(W, V, H)


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_the_fit_reaches_least_squares_under_its_mask(decay: float) -> None:
    W, H = _normal(12, 40), _moment(40, decay=decay)
    task = _task(W, H)
    A = H + task.ridge * torch.eye(40, dtype=F64)
    found, _ = zeros.jointly(task, 12)
    exact = torch.zeros(12, 40, dtype=F64)
    for r, kept in enumerate(found.mask):
        at = kept.nonzero()[:, 0]
        exact[r, at] = torch.linalg.solve(A[at][:, at], A[at] @ W[r])
    # 12 steps of conjugate gradients, from weights that the pulls have brought near
    assert _loss(W, found.V, A) <= 1.002 * _loss(W, exact, A)
    assert _loss(W, found.V, A) >= (1 - 1e-6) * _loss(W, exact, A)


def test_more_steps_serve_better() -> None:
    W, H = _normal(96, 160), _moment(160, decay=1.5)
    losses = [_loss(W, zeros.jointly(_task(W, H), n)[0].V, H) for n in (1, 3, 6, 12)]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 0.85 * losses[0]


def test_factors_are_found_beside_the_mask() -> None:
    """A strong part of rank 3: found, and not pruned."""
    W = _normal(64, 3) @ _normal(3, 80, seed=7) + 0.3 * _normal(64, 80, seed=8)
    H = _moment(80)
    seen = []

    def fit(D: Tensor) -> Tensor:
        seen.append(D)
        u, s, v = torch.linalg.svd(D, full_matrices=False)
        return (u[:, :3] * s[:3]) @ v[:3]

    found, beside = zeros.jointly(_task(W, H), 6, fit)
    alone, none = zeros.jointly(_task(W, H), 6)
    assert none is None
    assert beside is not None
    assert torch.equal(seen[0], W.float())
    assert len(seen) == 2
    assert _loss(W, found.V + beside, H) < 0.3 * _loss(W, alone.V, H)


@pytest.mark.parametrize("how", ["joint", "sweep"])
def test_importance_moves_zeros_to_rows_that_do_not_count(how: str) -> None:
    W, H = _normal(64, 48).float(), _moment(48).float()
    G = torch.where(torch.arange(64) % 4 == 0, 20.0, 0.5)
    choice = Choice("raw", pattern="unstructured", sparsity=0.5, zeros=how)  # type: ignore[arg-type]
    plain, weighted = (dense(p.meta, p.tensors) for p in _pair(W, H, choice, G))
    zeros_of = [(V == 0).float().mean(1) for V in (plain, weighted)]
    assert zeros_of[1][::4].mean() < zeros_of[0][::4].mean() - 0.1
    costs = [float((G[:, None] * ((W - V) @ H) * (W - V)).sum()) for V in (plain, weighted)]
    assert costs[1] < 0.9 * costs[0]


def _pair(W: Tensor, H: Tensor, choice: Choice, G: Tensor) -> list[object]:
    return [decompose(W, H, choice, importance=g) for g in (None, G)]


@pytest.mark.parametrize("text", ["unstructured", "2:4", "5:10", "4x1"])
@pytest.mark.parametrize("how", ["joint", "sweep", "wanda"])
@pytest.mark.parametrize("width", [40, 43])
def test_the_share_is_met_exactly(how: str, text: str, width: int) -> None:
    W, H = _normal(32, width).float(), _moment(width).float()
    share = {} if ":" in text else {"sparsity": 0.6}
    feedback, zeros_ = how != "wanda", "joint" if how == "wanda" else how
    choice = Choice("raw", pattern=text, feedback=feedback, zeros=zeros_, **share)  # type: ignore[arg-type]
    p = decompose(W, H, choice)
    V, pattern = dense(p.meta, p.tensors), patterns.parse(text)
    expected = patterns.zeros_of(pattern, choice.sparsity, width)
    # the share is rounded to whole weights or blocks: of the matrix, of a row, or of each block
    slack = 0 if pattern.keep else max(1 / width, 4 / (32 * width))
    assert float((V == 0).double().mean()) == pytest.approx(expected, abs=slack + 1e-9)


def test_inputs_that_never_came_lose_their_weights_first() -> None:
    W, H = _normal(32, 40).float(), _moment(40).float()
    H[::2] = 0
    H[:, ::2] = 0
    found = zeros.jointly(_task(W, H, damping=1e-4), 6)[0]
    # damping gives them a little worth: more than the least of the others have
    assert found.mask[:, ::2].float().mean() < 0.05
    assert _loss(W, found.V, H) < 1e-3 * _loss(W, W * 0, H)


def test_rows_are_fitted_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H = _normal(50, 40), _moment(40)
    whole = zeros.jointly(_task(W, H), 6)[0]
    monkeypatch.setattr(zeros, "_ROWS", 7)
    parts = zeros.jointly(_task(W, H), 6)[0]
    assert torch.equal(whole.mask, parts.mask)
    torch.testing.assert_close(whole.V, parts.V, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2.5, 3.5])
@pytest.mark.parametrize("grid", ["trellis", "int"])
def test_less_is_fed_back_where_weights_are_zero(
    grid: str, bits: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On inputs that lie near a subspace, where feedback into zeros costs most."""
    from sprue.weights import coding as module

    X = _normal(120, 20, seed=5) @ _normal(20, 96, seed=6) + 0.1 * _normal(120, 96, seed=7)
    W, H = _normal(128, 96).float(), (X.T @ X / 120).float()
    rate = {"bits": int(bits), "group_size": 32} if grid == "int" else {"bits": bits}
    choice = Choice(grid, pattern="2:4", damping=0.001, state_bits=9, **rate)  # type: ignore[arg-type]
    now = decompose(W, H, choice).error
    monkeypatch.setattr(module, "_LOST", 0.0)
    assert now < 0.95 * decompose(W, H, choice).error
