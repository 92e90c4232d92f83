"""A packed matrix: every grid, with and without a low-rank part, gives one and the same W^."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from sprue.weights import factors, packed
from sprue.weights.grids import columns, integer, raw

Stored = tuple[dict[str, Any], dict[str, torch.Tensor]]

OUT, IN, RANK = 24, 37, 5


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _stored(grid: str) -> Stored:
    W = _random(OUT, IN)
    if grid == "none":
        return {"grid": "none", "shape": [OUT, IN]}, {}
    if grid.startswith("raw"):
        return raw.pack(W.to(torch.bfloat16) if grid == "raw16" else W)
    if grid.startswith("columns"):
        return columns.pack(W.to(torch.bfloat16) if grid == "columns16" else W)
    return integer.round_to_nearest(W, 3, 16, grid == "int symmetric")


GRIDS = ["none", "raw16", "raw32", "columns16", "columns32", "int", "int symmetric"]


@pytest.mark.parametrize("bits", [None, 4, 8, 16])
@pytest.mark.parametrize("grid", GRIDS)
def test_product_and_rows_equal_the_dense_matrix(grid: str, bits: int | None) -> None:
    meta, tensors = _stored(grid)
    if bits is not None:
        L, R = _random(OUT, RANK, seed=1), _random(RANK, IN, seed=2)
        meta, tensors = factors.attach(meta, tensors, L, R, bits)
    W_hat = packed.dense(meta, tensors)
    assert W_hat.shape == (OUT, IN)
    assert W_hat.dtype == torch.float32
    x = _random(2, 3, IN, seed=3)
    # Both are float32 sums of 37 products, in another order.
    torch.testing.assert_close(packed.matmul(meta, tensors, x), x @ W_hat.T, rtol=1e-4, atol=1e-4)
    ids = torch.tensor([[0, 23], [7, 7]])
    torch.testing.assert_close(packed.rows(meta, tensors, ids), W_hat[ids])
    half = packed.matmul(meta, tensors, x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    expected = (x.to(torch.bfloat16).float() @ W_hat.T).to(torch.bfloat16)
    # At most one bfloat16 step apart: both are computed in float32 and rounded once.
    torch.testing.assert_close(half, expected, rtol=2**-7, atol=1e-4)


@pytest.mark.parametrize("ids", [[-1], [0, OUT]])
@pytest.mark.parametrize("grid", GRIDS)
def test_rows_that_do_not_exist_are_refused(grid: str, ids: list[int]) -> None:
    L, R = _random(OUT, RANK, seed=1), _random(RANK, IN, seed=2)
    meta, tensors = factors.attach(*_stored(grid), L, R, 4)
    with pytest.raises(IndexError):
        packed.rows(meta, tensors, torch.tensor(ids))


@pytest.mark.parametrize("grid", GRIDS)
def test_the_layout_makes_the_same_buffers_again(grid: str) -> None:
    L, R = _random(OUT, RANK, seed=1), _random(RANK, IN, seed=2)
    meta, tensors = factors.attach(*_stored(grid), L, R, 4)
    layout = packed.layout(packed.Packed((OUT, IN), meta, tensors, 0.0))
    again = json.loads(json.dumps(layout))
    assert again == layout
    with torch.device("meta"):
        empty = packed.empty_tensors(again)
    assert {n: (t.shape, t.dtype, t.device.type) for n, t in empty.items()} == {
        n: (t.shape, t.dtype, "meta") for n, t in tensors.items()
    }
    assert torch.equal(packed.dense(again, tensors), packed.dense(meta, tensors))


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("group_size", [None, 16])
def test_factors(bits: int, group_size: int | None) -> None:
    L, R = _random(OUT, RANK, seed=1) * 1e-3, _random(RANK, IN, seed=2)
    meta, tensors = factors.attach({"grid": "none", "shape": [OUT, IN]}, {}, L, R, bits, group_size)
    stored = packed.Packed((OUT, IN), meta, tensors, 0.0)
    assert stored.bits == factors.stored_bits((OUT, IN), RANK, bits, group_size)
    assert stored.bits_per_weight == stored.bits / (OUT * IN)
    off = torch.linalg.norm(packed.dense(meta, tensors) - L @ R) / torch.linalg.norm(L @ R)
    # The best uniform grid leaves 0.107 of a normal variable at 4 bits and 0.010 at 8 (Max 1960),
    # float16 at most 2^-11; the errors of two factors add up to sqrt(2) times one.
    assert float(off) < 2**0.5 * {4: 0.107, 8: 0.010, 16: 2**-11}[bits]


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_one_factor_and_its_importance(bits: int) -> None:
    F = _random(50, 3)
    meta, tensors = factors.pack_factor(F, bits)
    assert factors.unpack_factor(meta, tensors, 50).shape == F.shape
    heavy = torch.where(torch.arange(50) < 10, 1e4, 1.0)
    weighted = factors.unpack_factor(*factors.pack_factor(F, bits, None, heavy), 50)
    plain = factors.unpack_factor(meta, tensors, 50)
    assert float(((weighted - F)[:10] ** 2).sum()) <= float(((plain - F)[:10] ** 2).sum())


def test_rank_zero_adds_nothing() -> None:
    stored = _stored("int")
    meta, tensors = factors.attach(*stored, torch.zeros(OUT, 0), torch.zeros(0, IN), 4)
    assert (meta, tensors) == stored
    assert factors.stored_bits((OUT, IN), 0, 4) == factors.stored_bits((OUT, IN), 0, 16) == 0


def test_bad_factors_are_refused() -> None:
    meta, tensors = _stored("int")
    L, R = _random(OUT, RANK), _random(RANK, IN)
    with pytest.raises(ValueError, match=r"\[24, rank\] and \[rank, 37\], received \[37, 5\]"):
        factors.attach(meta, tensors, R.T, L.T, 4)
    with pytest.raises(ValueError, match="2 to 8 or at 16 bits, received 12"):
        factors.attach(meta, tensors, L, R, 12)
    for bits in (4, 16):
        with pytest.raises(ValueError, match="NaN"):
            factors.attach(meta, tensors, L * math.nan, R, bits)


def test_an_unknown_grid_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="unknown grid 'ternary'; known are columns, int, masked, "
    ):
        packed.dense({"grid": "ternary", "shape": [1, 1]}, {})


def test_an_unknown_dtype_is_refused() -> None:
    layout = {"grid": "none", "shape": [1, 1], "tensors": {"a": {"shape": [1], "dtype": "int3x"}}}
    with pytest.raises(ValueError, match="tensor 'a' declares the dtype 'int3x'"):
        packed.empty_tensors(layout)


def test_nothing_stored_is_a_zero_matrix() -> None:
    meta = {"grid": "none", "shape": [OUT, IN]}
    assert packed.dense(meta, {}).eq(0).all()
    assert packed.matmul(meta, {}, torch.ones(2, IN)).shape == (2, OUT)
    assert packed.rows(meta, {}, torch.tensor([1, 2])).shape == (2, IN)


def test_raw_keeps_what_it_was_given() -> None:
    W = _random(4, 6)
    _, tensors = raw.pack(W)
    W.zero_()
    assert tensors["weight"].ne(0).all()
    with pytest.raises(ValueError, match=r"received int8 \[2, 2\]"):
        raw.pack(torch.zeros(2, 2, dtype=torch.int8))


def test_gradients_reach_the_input() -> None:
    L, R = _random(OUT, RANK, seed=1), _random(RANK, IN, seed=2)
    meta, tensors = factors.attach(*_stored("int"), L, R, 4)
    x = _random(2, IN).requires_grad_()
    packed.matmul(meta, tensors, x).sum().backward()
    torch.testing.assert_close(x.grad, packed.dense(meta, tensors).sum(0).expand(2, -1))
