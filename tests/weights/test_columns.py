"""The grid of columns: the kernel against float64 and against itself, and what is not skipped."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sprue.weights import kernels, packed
from sprue.weights.grids import columns

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDTHS = (128, 256, 512)

built = pytest.mark.skipif(kernels.library() is None, reason="the C kernels were not built")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _some(inputs: int, zeros: float, seed: int) -> Tensor:
    """A vector of which a share is zero."""
    generator = torch.Generator().manual_seed(seed)
    return _random(inputs, seed=seed + 1) * (torch.rand(inputs, generator=generator) >= zeros)


def _naive(W: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """W x in float64, and the sum of magnitudes that bounds its rounding errors."""
    terms = W.double() * x.double()
    return terms.sum(1), terms.abs().sum(1)


@built
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 150),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from(DTYPES),
    st.integers(0, 2**20),
)
def test_every_width_gives_the_same_bytes_near_float64(
    inputs: int, outputs: int, zeros: float, dtype: torch.dtype, seed: int
) -> None:
    W, x = _random(outputs, inputs, seed=seed).to(dtype), _some(inputs, zeros, seed)
    weight = W.T.contiguous()
    found = [kernels.columns(weight, x, width) for width in WIDTHS]
    exact, size = _naive(W, x)
    assert found[0] is not None
    # every sum of n terms in float32 is within n 2^-24 of its magnitudes (Higham 2002, section 4.2)
    assert ((found[0].double() - exact).abs() <= (inputs + 1) * 2.0**-24 * size + 1e-30).all()
    for other in found[1:]:
        assert other is not None
        assert other.numpy().tobytes() == found[0].numpy().tobytes()


@built
@pytest.mark.parametrize("width", WIDTHS)
def test_every_float16_is_read_exactly(width: int) -> None:
    codes = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    weight = codes.view(torch.float16)[None].contiguous()
    y = kernels.columns(weight, torch.ones(1), width)
    assert y is not None
    torch.testing.assert_close(y, weight[0].float(), rtol=0, atol=0, equal_nan=True)


@built
def test_threads_do_not_change_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = _random(64, 501), _some(64, 0.5, 3)
    alone = kernels.columns(weight, x)
    monkeypatch.setattr(kernels, "_ALONE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    several = kernels.columns(weight, x)
    assert alone is not None
    assert several is not None
    assert alone.numpy().tobytes() == several.numpy().tobytes()


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_not_skipped(
    odd: float, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel:
        monkeypatch.setattr(kernels, "library", lambda: None)
    meta, tensors = columns.pack(_random(5, 20))
    x = _some(20, 0.5, 1)
    x[7] = odd
    for shape in ((20,), (2, 20)):
        y = columns.matmul(meta, tensors, x.expand(shape).contiguous())
        assert not torch.isfinite(y).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_kernel_torch_does_the_same(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    W, x = _random(30, 40).to(dtype), _some(40, 0.5, 2)
    meta, tensors = columns.pack(W)
    monkeypatch.setattr(kernels, "library", lambda: None)
    exact, size = _naive(W, x)
    y = columns.matmul(meta, tensors, x)
    assert ((y.double() - exact).abs() <= 41 * 2.0**-24 * size + 1e-30).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_and_several_agree_with_dense(dtype: torch.dtype) -> None:
    W = _random(30, 40).to(dtype)
    meta, tensors = columns.pack(W)
    x = torch.stack([_some(40, z, 5) for z in (0.0, 0.5, 1.0)])
    assert torch.equal(packed.dense(meta, tensors), W.float())
    expected = x @ W.float().T
    torch.testing.assert_close(packed.matmul(meta, tensors, x), expected)
    for row, y in zip(x, expected, strict=True):
        torch.testing.assert_close(packed.matmul(meta, tensors, row), y)
        torch.testing.assert_close(packed.matmul(meta, tensors, row.view(1, 1, -1))[0, 0], y)
    assert packed.matmul(meta, tensors, x.bfloat16()).dtype == torch.bfloat16


def test_gradients_pass_for_one_row_too() -> None:
    W = _random(6, 8)
    x = _some(8, 0.5, 1).requires_grad_()
    columns.matmul(*columns.pack(W), x).sum().backward()
    torch.testing.assert_close(x.grad, W.sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_add_up_and_gradients_pass_through_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_BLOCK", 100)
    W = _random(30, 40).to(dtype)
    x = _random(3, 40, seed=1).requires_grad_()
    y = columns.matmul(*columns.pack(W), x)
    torch.testing.assert_close(y, x @ W.float().T)
    y.sum().backward()
    torch.testing.assert_close(x.grad, W.float().sum(0).expand(3, -1))


def test_no_rows_at_all() -> None:
    assert columns.matmul(*columns.pack(_random(6, 8)), torch.zeros(0, 8)).shape == (0, 6)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(2, 2, dtype=torch.int8)])
def test_what_is_no_matrix_of_floats_is_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="expected a float16, bfloat16 or float32 matrix"):
        columns.pack(bad)
