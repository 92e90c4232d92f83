"""Error feedback against GPTQ as its paper writes it: one column at a time, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sprue.weights import codebook, sweep, trellis_reference
from sprue.weights.factor import inverse_factor, ridge_of
from sprue.weights.grids import integer, trellis

F64 = torch.float64


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _moment(width: int, seed: int = 1, decay: float = 1.0) -> Tensor:
    """Second moment of inputs whose principal components have the variances 1 / k^decay."""
    Q = torch.linalg.qr(_normal(width, width, seed=seed))[0]
    return (Q * torch.arange(1, width + 1, dtype=F64) ** -decay) @ Q.T


def _gptq(
    W: Tensor, H: Tensor, bits: int, group_size: int | None, symmetric: bool, weighted: bool
) -> tuple[Tensor, Tensor]:
    """(codes, W^): algorithm 1 of Frantar et al. 2022 with blocks of one column, in W's dtype.

    The grid of a group is fitted when its first column is reached, as their code does it.
    """
    W, width = W.clone(), W.shape[1]
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    codes, W_hat = torch.empty(W.shape, dtype=torch.uint8), torch.empty_like(W)
    size = width if group_size is None else group_size
    for j in range(width):
        if j % size == 0:
            share = H.diagonal()[j : j + size] if weighted else None
            scale, zero = integer.fit_scales(W[:, j : j + size], bits, symmetric, share)
        codes[:, j] = integer.quantize(W[:, j, None], scale, zero, bits)[:, 0]
        W_hat[:, j] = integer.dequantize(codes[:, j, None], scale, zero)[:, 0]
        error = (W[:, j] - W_hat[:, j]) / U[j, j]
        W[:, j:] -= error[:, None] * U[j, j:]
    return codes, W_hat


def _loss(W: Tensor, W_hat: Tensor, H: Tensor) -> float:
    D = W.to(F64) - W_hat.to(F64)
    return float(((D @ H) * D).sum())


def _decoded(
    swept: tuple[Tensor, Tensor, Tensor], bits: int, size: int | None, sym: bool
) -> Tensor:
    codes, scale, zero = swept
    return integer.dense(
        *integer.pack(codes, scale, zero, bits=bits, group_size=size, symmetric=sym)
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("width", "group_size"),
    [(96, 32), (96, None), (200, 48), (200, 64), (200, 150), (300, 32), (300, 200), (300, None)],
)
def test_integers_equal_gptq(width: int, group_size: int | None, symmetric: bool) -> None:
    """No width is a multiple of the block of 128; groups divide a block, do not, or exceed it."""
    bits, weighted = (2, True) if symmetric else (4, False)
    W, H = _normal(12, width), _moment(width)
    H += ridge_of(H, 0.01) * torch.eye(width, dtype=F64)
    U = torch.from_numpy(inverse_factor(H, 1e-12).copy())
    share = H.diagonal() if weighted else None
    swept = sweep.on_integers(W, U, bits, group_size, symmetric, share)[:3]
    codes, W_hat = _gptq(W, H, bits, group_size, symmetric, weighted)
    assert torch.equal(swept[0], codes)
    torch.testing.assert_close(
        _decoded(swept, bits, group_size, symmetric), W_hat.float(), rtol=0, atol=0
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [64, None])
def test_in_float32_the_loss_is_the_same(group_size: int | None, symmetric: bool) -> None:
    """Rounding moves weights near the middle of two levels, and those after them: not the loss."""
    W, H = _normal(64, 300), _moment(300)
    H += ridge_of(H, 0.01) * torch.eye(300, dtype=F64)
    U = torch.from_numpy(inverse_factor(H, 1e-12).astype(np.float32))
    swept = sweep.on_integers(W.float(), U, 3, group_size, symmetric)[:3]
    codes, W_hat = _gptq(W, H, 3, group_size, symmetric, False)
    assert (swept[0] == codes).float().mean() > 0.98
    ours = _loss(W, _decoded(swept, 3, group_size, symmetric), H)
    # a thousandth: the losses of 64 rows that differ in 2% of their codes, which differ evenly
    assert ours == pytest.approx(_loss(W, W_hat, H), rel=1e-3)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_feedback_beats_rounding_to_nearest(bits: int) -> None:
    W, H = _normal(64, 200), _moment(200)
    U = torch.from_numpy(inverse_factor(H, ridge_of(H, 0.01)).copy())
    fed = _decoded(sweep.on_integers(W, U, bits, 64, True, H.diagonal())[:3], bits, 64, True)
    rounded = integer.dense(*integer.round_to_nearest(W, bits, 64, True))
    assert _loss(W, fed, H) < 0.75 * _loss(W, rounded, H)


def test_without_correlation_feedback_changes_nothing() -> None:
    W = _normal(16, 200)
    codes, scale, zero = sweep.on_integers(W, torch.eye(200, dtype=F64) * 3, 3, 64, True)[:3]
    meta, tensors = integer.round_to_nearest(W, 3, 64, True)
    ours = integer.pack(codes, scale, zero, bits=3, group_size=64, symmetric=True)
    assert ours[0] == meta
    assert all(torch.equal(ours[1][name], tensors[name]) for name in tensors)


def test_the_input_is_untouched() -> None:
    W = _normal(8, 40)
    before, U = W.clone(), torch.from_numpy(inverse_factor(_moment(40), 0.1).copy())
    sweep.on_integers(W, U, 3, 16, True)[:3]
    assert torch.equal(W, before)
    W32 = W.float()
    rate, row = np.full(40, 16, np.int32), np.zeros(8, np.int32)
    sweep.along_trellis(W32, U.numpy(), rate, row, np.ones(8), 9)
    assert torch.equal(W32, before.float())


def _ldlq_on_trellis(W: Tensor, U: Tensor, rate: int, L: int) -> Tensor:
    """W^ column by column from the definition of LDLQ (Chee et al. 2023, equation 2), in float64:
    each column, moved by what its predecessors erred, goes through the trellis alone."""
    luts, order = codebook.values(L), torch.from_numpy(trellis.order(len(W)).copy())
    steps = np.exp2(np.arange(-200, 100) / trellis.COLUMN_OCTAVE).astype(np.float32)
    ones, W_hat, state = np.ones(len(W), np.float32), torch.empty_like(W), 0
    feedback = torch.linalg.inv(U / U.diagonal()[:, None])  # H = F D F^T, F unit upper
    for j in range(W.shape[1]):
        moved = W[:, j] + (W[:, :j] - W_hat[:, :j]) @ feedback[:j, j]
        column = moved[order].to(torch.float32).numpy()[None].copy()
        one = np.ones((1, 1), np.float32)
        _, _, _, state = trellis_reference.sweep(
            column, one, np.array([rate], np.int32), steps, ones, ones, luts, state
        )
        W_hat[order, j] = torch.from_numpy(column[0]).to(F64)
    return W_hat


def _on_trellis(W: Tensor, U: Any, rate: Any, row: Any) -> Tensor:
    values = torch.empty(W.shape)
    sweep.along_trellis(W.float(), U, rate, row, np.ones(len(W)), 9, values=values)
    return values


def test_the_trellis_sweep_is_ldlq() -> None:
    """150 columns: a whole block and a part."""
    W, H = _normal(48, 150), _moment(150, decay=0.7)
    U = inverse_factor(H, ridge_of(H, 0.05))
    naive = _ldlq_on_trellis(W, torch.from_numpy(U.copy()), 16, 9)
    rate, row = np.full(150, 16, np.int32), np.zeros(48, np.int32)
    values = _on_trellis(W, U, rate, row)
    # the reference rounds elsewhere, and no path of this matrix is so near to another that it shows
    assert torch.equal(values.to(F64), naive)


@pytest.mark.parametrize("block", [16, 37, 400])
def test_blocks_do_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    W, H = _normal(48, 150), _moment(150)
    U = inverse_factor(H, ridge_of(H, 0.01))
    whole = sweep.on_integers(W, torch.from_numpy(U.copy()), 3, 32, True)[:3]
    rate, row = np.full(150, 16, np.int32), np.zeros(48, np.int32)
    coded = _loss(W, _on_trellis(W, U, rate, row), H)
    monkeypatch.setattr(sweep, "BLOCK", block)
    parts = sweep.on_integers(W, torch.from_numpy(U.copy()), 3, 32, True)[:3]
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    again = _loss(W, _on_trellis(W, U, rate, row), H)
    assert again == pytest.approx(coded, rel=0.04)


def test_importance_moves_error_to_rows_that_do_not_count() -> None:
    W = _normal(256, 16).float()
    rate, row = np.full(16, 16, np.int32), np.zeros(256, np.int32)
    heavy = np.where(np.arange(256) % 4 == 0, 8.0, 0.5)
    off = {}
    for name, importance in (("even", np.ones(256)), ("heavy", heavy)):
        values = torch.empty_like(W)
        sweep.along_trellis(W, np.eye(16), rate, row, importance, 10, values=values)
        off[name] = (values - W).square().mean(1).numpy()
    assert off["heavy"][::4].mean() < 0.75 * off["even"][::4].mean()
    assert (heavy * off["heavy"]).mean() < 0.9 * (heavy * off["even"]).mean()
