"""The integer grid against a slow float64 reference, and at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sprue.weights.grids import integer

GRIDS = [
    (bits, group_size, symmetric)
    for bits in (2, 3, 4, 8)
    for group_size in (None, 8, 16)
    for symmetric in (True, False)
]


def _matrix(out: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed))


def _naive(W: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> np.ndarray:
    """Every weight to its nearest level, one at a time in float64."""
    levels = np.arange(2**bits, dtype=np.float64)
    nearest = np.zeros(W.shape)
    for index, weight in np.ndenumerate(W.double().numpy()):
        grid = float(scale[index]) * (levels - float(zero[index]))
        nearest[index] = grid[np.argmin(np.abs(grid - weight))]
    return nearest


def _off(W: torch.Tensor, W_hat: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    return ((W - W_hat).double() ** 2 * importance.double()).sum(-1)


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), GRIDS)
def test_against_a_slow_reference(bits: int, group_size: int | None, symmetric: bool) -> None:
    W = _matrix(5, 21)
    scale, zero = integer.fit(W, bits, group_size, symmetric)
    wide = [integer.expand(t, group_size, 21) for t in (scale, zero)]
    W_hat = integer.dense(*integer.round_to_nearest(W, bits, group_size, symmetric))
    naive = _naive(W, *wide, bits)
    # A tie between two levels may fall either way: compare the distances, not the levels.
    off, naive_off = np.abs(W_hat.numpy() - W.numpy()), np.abs(naive - W.numpy())
    np.testing.assert_allclose(off, naive_off, atol=1e-6)


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), GRIDS)
def test_product_and_rows_equal_the_dense_matrix(
    bits: int, group_size: int | None, symmetric: bool
) -> None:
    W = _matrix(13, 37)
    meta, tensors = integer.round_to_nearest(W, bits, group_size, symmetric)
    W_hat = integer.dense(meta, tensors)
    x = _matrix(6, 37, seed=1).view(2, 3, 37)
    torch.testing.assert_close(integer.matmul(meta, tensors, x), x @ W_hat.T)
    ids = torch.tensor([[0, 12], [5, 5]])
    assert torch.equal(integer.rows(meta, tensors, ids), W_hat[ids])


def test_a_product_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(integer._BLOCK, "cpu", 40)
    meta, tensors = integer.round_to_nearest(_matrix(13, 37), 3, 8, False)
    x = _matrix(3, 37, seed=1)
    torch.testing.assert_close(integer.matmul(meta, tensors, x), x @ integer.dense(meta, tensors).T)


def test_fitting_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    W = _matrix(13, 37)
    whole = integer.round_to_nearest(W, 3, 8, False)[1]
    monkeypatch.setattr(integer, "_FIT_BLOCK", 40)
    parts = integer.round_to_nearest(W, 3, 8, False)[1]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@given(
    st.integers(2, 8),
    st.sampled_from([None, 1, 3, 8, 100]),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_stored_bits_are_exact(
    bits: int, group_size: int | None, symmetric: bool, out: int, width: int
) -> None:
    _, tensors = integer.round_to_nearest(
        _matrix(out, width), bits, group_size, symmetric, search=False
    )
    stored = 8 * sum(t.numel() * t.element_size() for t in tensors.values())
    assert stored == integer.stored_bits((out, width), bits, group_size, symmetric)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_search_finds_what_a_fine_scan_finds(bits: int, symmetric: bool) -> None:
    """In float64, over 400 widths of the range: at most 3% more error than the best of them."""
    W, importance = _matrix(16, 64), torch.rand(64, generator=torch.Generator().manual_seed(3))
    scale, zero = integer.fit_scales(W, bits, symmetric, importance)
    codes = integer.quantize(W, scale, zero, bits)
    found = _off(W, integer.dequantize(codes, scale, zero), importance)
    best = torch.full((16,), math.inf, dtype=torch.float64)
    for part in np.linspace(0.2, 1, 400):
        trial = integer._from_range(W, bits, symmetric, float(part))
        W_hat = integer.dequantize(integer.quantize(W, *trial, bits), *trial)
        best = torch.minimum(best, _off(W, W_hat, importance))
    assert float(found.sum()) <= 1.03 * float(best.sum())


@pytest.mark.parametrize("symmetric", [True, False])
def test_no_group_is_worse_than_its_full_range(symmetric: bool) -> None:
    W, importance = _matrix(64, 32), _matrix(1, 32, seed=5)[0].abs()
    errors = {}
    for search in (True, False):
        scale, zero = integer.fit_scales(W, 3, symmetric, importance, search=search)
        W_hat = integer.dequantize(integer.quantize(W, scale, zero, 3), scale, zero)
        errors[search] = _off(W, W_hat, importance)
    assert (errors[True] <= errors[False] * (1 + 1e-6)).all()
    assert float(errors[True].sum()) < 0.9 * float(errors[False].sum())


def test_importance_moves_the_scale() -> None:
    W = _matrix(8, 32)
    heavy_tail = torch.where(W.abs().amax(0) > 2, 100.0, 1.0)
    plain, _ = integer.fit_scales(W, 2, True)
    weighted, _ = integer.fit_scales(W, 2, True, heavy_tail)
    assert float(weighted.mean()) > float(plain.mean())


def test_an_asymmetric_grid_holds_zero() -> None:
    W = _matrix(8, 32) + 3
    W[:, ::4] = 0
    meta, tensors = integer.round_to_nearest(W, 4, 8, False)
    assert (integer.dense(meta, tensors)[:, ::4] == 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_a_constant_matrix(value: float, symmetric: bool) -> None:
    W = torch.full((3, 10), value)
    W_hat = integer.dense(*integer.round_to_nearest(W, 2, 4, symmetric))
    # The scale is off by half a step of float16 at most.
    torch.testing.assert_close(W_hat, W, rtol=2**-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_input_is_untouched_and_twice_the_same(dtype: torch.dtype) -> None:
    W = _matrix(7, 19).to(dtype)
    before = W.clone()
    first, again = (integer.round_to_nearest(W, 3, 8, False) for _ in range(2))
    assert torch.equal(W, before)
    assert first[0] == again[0]
    assert all(torch.equal(first[1][name], again[1][name]) for name in first[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_numbers_are_refused(bad: float) -> None:
    W = _matrix(4, 8)
    W[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        integer.round_to_nearest(W, 4, None, True)


def test_weights_too_large_for_a_scale_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1e\+09 needs a scale above float16's largest, 65504"):
        integer.round_to_nearest(torch.full((2, 4), 1e9), 4, None, False)


def test_other_bad_arguments_are_refused() -> None:
    W = _matrix(4, 8)
    with pytest.raises(ValueError, match="2 to 8 bits, received 1"):
        integer.round_to_nearest(W, 1, None, True)
    with pytest.raises(ValueError, match="at least 1 weight, received 0"):
        integer.round_to_nearest(W, 4, 0, True)
    with pytest.raises(ValueError, match=r"each of 8 columns, received \[7\]"):
        integer.round_to_nearest(W, 4, None, True, torch.ones(7))
    scale, zero = integer.fit(W, 4, None, True)
    with pytest.raises(ValueError, match=r"each of \[4, 2\] groups, received \[4, 1\]"):
        integer.pack(W.to(torch.uint8), scale, zero, bits=4, group_size=4, symmetric=True)
