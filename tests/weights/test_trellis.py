"""The trellis grid: what was coded is what is decoded, by every path through the code."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sprue.weights import codebook, kernels, packed, sweep
from sprue.weights.grids import trellis

built = pytest.mark.skipif(kernels.library() is None, reason="the C kernels were not built")


@dataclass(frozen=True)
class Case:
    """A coded matrix: `values` are those that the search settled on."""

    W: Tensor
    values: Tensor
    meta: dict[str, Any]
    tensors: dict[str, Tensor]


def _coded(
    out: int, width: int, seed: int = 0, L: int = 9, segment: int = 2048, rate: int | None = None
) -> Case:
    rng = np.random.default_rng(seed)
    W = torch.from_numpy(rng.standard_normal((out, width)).astype(np.float32))
    row = rng.integers(-9, 10, out).astype(np.int32)
    W *= torch.from_numpy(np.exp2(row / trellis.ROW_OCTAVE).astype(np.float32))[:, None]
    rates = rng.integers(4, 40, width).astype(np.int32)
    rates[rng.random(width) < 0.2] = -1
    if rate is not None:
        rates = np.full(width, rate, np.int32)
    U = np.eye(width) + np.triu(rng.standard_normal((width, width)) * 0.1, 1)
    with _cut(segment):
        values = torch.empty_like(W)
        coded = sweep.along_trellis(W, U, rates, row, np.ones(out), L, values=values)
        meta, tensors = trellis.pack((out, width), coded.streams, rates, coded.column, row, L)
    return Case(W, values, meta, tensors)


@contextmanager
def _cut(rows: int) -> Iterator[None]:
    """Segments of at most this many rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trellis, "SEGMENT", rows)
        yield


@contextmanager
def _running(library: ctypes.CDLL | None) -> Iterator[None]:
    """The kernels of this library; None: without any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "library", lambda: library)
        yield


SHAPES = (st.integers(1, 70), st.integers(1, 20))


@settings(max_examples=60, deadline=None)
@given(*SHAPES, st.integers(0, 99), st.integers(9, 12), st.sampled_from([1, 7, 30, 2048]))
def test_decoding_gives_what_was_coded(
    out: int, width: int, seed: int, L: int, segment: int
) -> None:
    case = _coded(out, width, seed, L, segment)
    assert case.meta["segments"] == -(-out // segment)
    assert torch.equal(trellis.dense(case.meta, case.tensors), case.values)
    with _running(None):
        assert torch.equal(trellis.dense(case.meta, case.tensors), case.values)


def test_the_second_segment_starts_from_its_own_state() -> None:
    """2049 rows: more than one segment holds."""
    case = _coded(2049, 3)
    assert case.meta["segments"] == 2
    assert torch.equal(trellis.dense(case.meta, case.tensors), case.values)


@settings(max_examples=60, deadline=None)
@given(*SHAPES, st.integers(0, 99), st.sampled_from([7, 2048]), st.data())
def test_rows_equal_those_of_the_dense_matrix(
    out: int, width: int, seed: int, segment: int, data: st.DataObject
) -> None:
    case = _coded(out, width, seed, segment=segment)
    ids = torch.tensor(data.draw(st.lists(st.integers(0, out - 1), max_size=9)), dtype=torch.int64)
    for library in (kernels.library(), None):
        with _running(library):
            rows = trellis.rows(case.meta, case.tensors, ids[None])
        assert torch.equal(rows, case.values[ids][None])


@pytest.mark.parametrize("batch", [0, 1, 8, 9, 40])
@pytest.mark.parametrize("segment", [30, 2048])
def test_products_equal_those_of_the_dense_matrix(batch: int, segment: int) -> None:
    case = _coded(77, 30, segment=segment)
    x = torch.randn(batch, 30, generator=torch.Generator().manual_seed(1))
    exact = x.double() @ case.values.double().T
    for library in (kernels.library(), None):
        with _running(library):
            y = trellis.matmul(case.meta, case.tensors, x)
        # float32 sums of 30 products: 30 roundings of the largest partial sum at most
        bound = 30 * 2**-24 * (x.double().abs() @ case.values.double().abs().T)
        assert y.shape == (batch, 77)
        assert ((y - exact).abs() <= bound).all()


@built
def test_narrower_vectors_decode_the_same(narrow: ctypes.CDLL) -> None:
    for seed in range(6):
        case = _coded(70 + seed, 12, seed, L=9 + seed, segment=40)
        with _running(narrow):
            assert torch.equal(trellis.dense(case.meta, case.tensors), case.values)
            ids = torch.tensor([3, 69, 0])
            assert torch.equal(trellis.rows(case.meta, case.tensors, ids), case.values[ids])


@built
@pytest.mark.parametrize("segment", [16, 2048])
def test_without_the_library_the_same_is_stored(segment: int) -> None:
    ours = _coded(40, 9, segment=segment)
    with _running(None):
        naive = _coded(40, 9, segment=segment)
    assert ours.meta == naive.meta
    assert all(torch.equal(ours.tensors[n], naive.tensors[n]) for n in ours.tensors)


def test_16_bit_inputs_and_gradients() -> None:
    case = _coded(20, 12)
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    half = packed.matmul(case.meta, case.tensors, x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    x.requires_grad_()
    packed.matmul(case.meta, case.tensors, x).sum().backward()
    torch.testing.assert_close(x.grad, case.values.sum(0).expand(3, -1))


def test_every_step_that_can_be_stored_is_coded_and_decoded_alike() -> None:
    """float32 of 2^(n/8) and 2^(n/4), by numpy where it is coded and by torch where it is read."""
    for unit in (trellis.COLUMN_OCTAVE, trellis.ROW_OCTAVE):
        exponent = np.arange(-120 * unit, 120 * unit)
        coded = np.exp2(exponent / unit).astype(np.float32)
        assert np.array_equal(coded, trellis._octaves(torch.from_numpy(exponent), unit).numpy())


@pytest.mark.parametrize("k", [-60, -7, 7, 60])
def test_a_power_of_two_changes_nothing_but_the_steps(k: int) -> None:
    case = _coded(40, 12)
    rate = np.full(12, 16, np.int32)
    row, ones = np.zeros(40, np.int32), np.ones(40)
    plain = sweep.along_trellis(case.W, np.eye(12), rate, row, ones, 9)
    scaled = sweep.along_trellis(case.W * 2.0**k, np.eye(12), rate, row, ones, 9)
    assert np.array_equal(plain.streams[0], scaled.streams[0])
    assert np.array_equal(plain.column + 8 * k, scaled.column)


def test_stored_bits_are_what_the_rates_say() -> None:
    for segment in (20, 2048):
        case = _coded(50, 8, rate=13, segment=segment)
        joints = (case.meta["segments"] - 1) * 9
        edge = trellis.bounds(50, case.meta["segments"])
        stream = sum(8 * ((b - a) * 13 // 8) for a, b in pairwise(edge))
        frame = trellis.LEAD + trellis.TAIL
        assert case.tensors["codes"].numel() == frame + -(-(stream + joints) // 8)


@given(st.integers(1, 5000))
def test_rows_are_visited_once_and_far_apart(count: int) -> None:
    order = trellis.order(count)
    assert sorted(order) == list(range(count))
    if count > 10:
        assert np.abs(np.diff(order)).min() > count // 4
    edge = trellis.bounds(count, trellis.segments(count))
    sizes = np.diff(edge)
    assert edge[0] == 0
    assert edge[-1] == count
    assert 0 < sizes.min() <= sizes.max() <= trellis.SEGMENT
    assert sizes.max() - sizes.min() <= 1


def test_columns_at_rate_below_zero_are_zeros() -> None:
    case = _coded(30, 5, rate=-1)
    assert not case.values.any()
    assert not trellis.dense(case.meta, case.tensors).any()
    assert set(case.tensors) <= {"codes", "row"}


def test_a_row_that_does_not_exist_is_refused() -> None:
    case = _coded(30, 5)
    for bad in (-1, 30):
        with pytest.raises(IndexError, match=r"\[0, 29\]"):
            trellis.rows(case.meta, case.tensors, torch.tensor([0, bad]))
    assert trellis.rows(case.meta, case.tensors, torch.zeros(0, 2, dtype=torch.int64)).numel() == 0


def test_an_unknown_codebook_is_refused() -> None:
    case = _coded(30, 5)
    with pytest.raises(ValueError, match=f"'quantile-0'.* has '{codebook.VERSION}'"):
        trellis.dense({**case.meta, "codebook": "quantile-0"}, case.tensors)
