"""Rotations are orthogonal, undone exactly, seeded, and mix every input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sprue.weights.rotate import restore, rotate, signs, unrotate

WIDTHS = [1, 2, 3, 12, 96, 100, 127, 768]


def _matrix(width: int, seed: int) -> torch.Tensor:
    """x -> rotate(x) as a matrix: row i is the rotated i-th unit vector."""
    return rotate(torch.eye(width, dtype=torch.float64), seed)


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_orthogonal(width: int) -> None:
    R = _matrix(width, 7)
    torch.testing.assert_close(R @ R.T, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_signs_then_hadamard_times_cosine(width: int) -> None:
    """Against scipy's Hadamard and cosine transforms, joined by a Kronecker product."""
    power = width & -width
    odd = width // power
    cosine = scipy.fft.dct(np.eye(odd), type=2, norm="ortho", axis=0)
    dense = np.kron(cosine, scipy.linalg.hadamard(power) / np.sqrt(power))
    expected = (dense * signs(width, 7).double().numpy()).T
    np.testing.assert_allclose(_matrix(width, 7).numpy(), expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**40))
def test_it_is_undone(width: int, seed: int) -> None:
    x = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(width))
    # float32: sums of up to 300 products, some log2(300) + 300 roundings
    torch.testing.assert_close(unrotate(rotate(x, seed), seed), x, rtol=1e-4, atol=1e-5)
    norm = float(x.norm())
    assert float(rotate(x, seed).norm()) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("turn", [{"in": 3}, {"in": 3, "out": 4}, {}])
def test_a_matrix_is_restored(turn: dict[str, int]) -> None:
    W = torch.randn(20, 24, generator=torch.Generator().manual_seed(0))
    turned = rotate(W, 3) if "in" in turn else W
    if "out" in turn:
        turned = rotate(turned.T.contiguous(), 4).T
    torch.testing.assert_close(restore(turned, turn), W, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [96, 100, 127, 768])
def test_an_outlier_is_spread_over_all_inputs(width: int) -> None:
    """One input of 1 becomes `width` parts, none above sqrt(2) times its even share."""
    spread = rotate(torch.eye(width)[5], 1).abs()
    assert float(spread.max()) <= 2**0.5 * width**-0.5 * (1 + 1e-5)


def test_seeds_differ_and_repeat() -> None:
    assert torch.equal(signs(100, 1), signs(100, 1))
    assert not torch.equal(signs(100, 1), signs(100, 2))
    assert signs(4000, 3).abs().eq(1).all()
    # 4000 fair coins: three standard deviations are 0.05
    assert abs(float(signs(4000, 3).mean())) < 0.05


def test_the_global_generators_are_untouched() -> None:
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    rotate(torch.ones(12), 5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_and_the_input_are_kept(dtype: torch.dtype) -> None:
    x = torch.ones(3, 12, dtype=dtype)
    assert rotate(x, 1).dtype == unrotate(x, 1).dtype == dtype
    assert x.eq(1).all()
