"""The factor of an inverse second moment against plain linear algebra in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sprue.weights import factor
from sprue.weights.factor import inverse, inverse_factor, ridge_of


def _moment(width: int, tokens: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """The mean of x x^T, float32, as the walk sums it."""
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)) * scale
    return x.T @ x / tokens


@pytest.mark.parametrize(("width", "tokens"), [(1, 5), (2, 9), (33, 400), (128, 64), (200, 1000)])
@pytest.mark.parametrize("vector", [False, True])
def test_it_inverts_the_damped_moment(width: int, tokens: int, vector: bool) -> None:
    """64 tokens in 128 dimensions: singular but for the damping."""
    H = _moment(width, tokens)
    ridge = 0.01 * (1 + np.arange(width)) if vector else 0.01
    U = inverse_factor(H, ridge)
    assert U.dtype == np.float64
    assert np.array_equal(U, np.triu(U))
    assert (np.diagonal(U) > 0).all()
    damped = H.double().numpy() + np.diag(np.broadcast_to(ridge, width))
    # an inverse is right to the condition number times the rounding of float64
    slack = 10 * width * np.linalg.cond(damped) * 2**-53
    assert np.abs(U.T @ U @ damped - np.eye(width)).max() < slack


def test_it_equals_what_gptq_computes() -> None:
    """Inverse first, then the upper Cholesky factor (Frantar et al. 2022, section 4, step 3)."""
    H = _moment(96, 300)
    inverse = torch.linalg.inv(H.double() + 0.05 * torch.eye(96, dtype=torch.float64))
    U = torch.linalg.cholesky(inverse, upper=True)
    np.testing.assert_allclose(inverse_factor(H, 0.05), U.numpy(), rtol=1e-9, atol=1e-12)


def test_a_wide_one_is_found_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    H = _moment(300, 2000)
    exact = inverse_factor(H, 0.01)
    monkeypatch.setattr(factor, "WIDE", 299)
    U = inverse_factor(H, 0.01)
    assert (exact.dtype, U.dtype) == (np.float64, np.float32)
    assert np.array_equal(U, np.triu(U))
    np.testing.assert_allclose(U, exact, rtol=1e-3, atol=1e-4 * np.abs(exact).max())


def test_what_single_precision_cannot_do_double_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """One direction a billion times as strong as the damping."""
    v = torch.randn(64, generator=torch.Generator().manual_seed(0))
    H = 1e3 * torch.outer(v, v)
    exact = inverse_factor(H, 1e-4)
    monkeypatch.setattr(factor, "WIDE", 63)
    assert np.array_equal(inverse_factor(H, 1e-4), exact)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
def test_an_array_is_turned_around_in_pieces(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor, "_PIECE", 3)
    flat = np.arange(count, dtype=np.float64)
    factor._reverse(flat)
    assert np.array_equal(flat, np.arange(count)[::-1])


def test_an_unseen_input_is_damped_to_one() -> None:
    assert ridge_of(torch.zeros(4, 4), 0.01) == 1.0
    assert np.array_equal(inverse_factor(torch.zeros(4, 4), 1.0), np.eye(4))
    assert ridge_of(torch.eye(4) * 3, 0.01) == pytest.approx(0.03)


def test_what_rounding_made_indefinite_is_lifted() -> None:
    """A rank of 1 whose zero eigenvalues came out at -1e-5 of the mean."""
    v = torch.randn(64, generator=torch.Generator().manual_seed(0))
    H = torch.outer(v, v)
    H -= 1e-5 * H.diagonal().mean() * torch.eye(64)
    U = inverse_factor(H, 1e-9)
    assert np.isfinite(U).all()
    lifted = H.double().numpy() + (1e-9 + 1e-4 * float(H.diagonal().mean())) * np.eye(64)
    np.testing.assert_allclose(U.T @ U @ lifted, np.eye(64), atol=1e-6)


def test_what_is_no_second_moment_is_refused() -> None:
    """An eigenvalue of -0.3 is not rounding: no damping may hide it."""
    Q = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
    spectrum = torch.linspace(0.1, 2, 32)
    spectrum[3] = -0.3
    with pytest.raises(ValueError, match="not positive semidefinite"):
        inverse_factor((Q * spectrum) @ Q.T, 0.01)
    with pytest.raises(ValueError, match="-1 for a mean diagonal"):
        ridge_of(-torch.eye(4), 0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_moment_that_holds_no_numbers_is_refused(bad: float) -> None:
    H = torch.eye(4)
    H[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        inverse_factor(H, 0.01)


def test_the_input_is_untouched() -> None:
    H = _moment(20, 50)
    before = H.clone()
    inverse_factor(H, 0.1)
    assert torch.equal(H, before)


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 600])
def test_the_inverse_takes_the_place_of_the_matrix(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    X = torch.randn(2 * n, n, generator=generator)
    A = X.T @ X / len(X) + 0.1 * torch.eye(n)
    A = (A + A.T) / 2
    expected = torch.linalg.inv(A.to(torch.float64))
    found = inverse(A)
    assert found.data_ptr() == A.data_ptr()
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found.to(torch.float64), expected, atol=1e-4, rtol=1e-4)


def test_what_has_no_inverse_is_refused() -> None:
    with pytest.raises(ValueError, match="positive definite"):
        inverse(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
