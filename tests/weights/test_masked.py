"""Values and paths beside a mask: what is stored, and what is read back."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sprue.weights import codebook, kernels, packed, patterns, trellis_reference
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose
from sprue.weights.grids import integer, masked, trellis

built = pytest.mark.skipif(kernels.library() is None, reason="the C kernels were not built")
PATTERNS = ("unstructured", "2:4", "3x2")
STEPS = np.exp2(np.arange(-160, 81) / 8).astype(np.float32)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _moment(width: int) -> Tensor:
    X = _normal(3 * width, width, seed=9) * torch.linspace(0.2, 2, width)
    return X.T @ X / len(X)


def _some(text: str, out: int, width: int) -> tuple[Tensor, Tensor]:
    """(W, mask)."""
    W = _normal(out, width)
    return W, patterns.select(W.abs(), patterns.parse(text), 0.6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("text", PATTERNS)
def test_values_come_back_as_they_were(text: str, dtype: torch.dtype) -> None:
    W, mask = _some(text, 33, 28)
    meta, tensors = masked.pack_values(W, mask, patterns.parse(text), dtype)
    assert torch.equal(masked.dense(meta, tensors), (W.to(dtype) * mask).float())
    stored = 8 * sum(t.nbytes for t in tensors.values())
    kept = int(mask.sum())
    bits = masked.stored_bits((33, 28), kept, patterns.parse(text), 8 * dtype.itemsize)
    assert stored == bits


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, None])
@pytest.mark.parametrize("text", PATTERNS)
def test_codes_come_back_as_integers_have_them(
    text: str, group: int | None, symmetric: bool
) -> None:
    W, mask = _some(text, 33, 28)
    scale, zero = integer.fit_scales(W[:, : group or 28], 3, symmetric, None)
    many = 1 if group is None else 2
    scale, zero = scale.repeat(1, many), zero.repeat(1, many)
    wide = scale.repeat_interleave(group or 28, 1)[:, :28]
    codes = torch.cat(
        [integer.quantize(W[:, j, None], wide[:, j, None], zero[:, :1], 3) for j in range(28)],
        dim=1,
    )
    grid: dict[str, Any] = {"bits": 3, "group_size": group, "symmetric": symmetric}
    meta, tensors = masked.pack_codes((codes, scale, zero), mask, patterns.parse(text), **grid)
    whole = integer.dense(*integer.pack(codes, scale, zero, **grid))
    assert torch.equal(masked.dense(meta, tensors), whole * mask)
    assert len(tensors["codes"]) < 0.6 * len(integer.pack(codes, scale, zero, **grid)[1]["codes"])


@pytest.mark.parametrize("bits", [None, 4])
def test_rows_and_products_are_those_of_the_matrix(
    bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in blocks of three rows: values lie one after the other, whatever the mask keeps."""
    monkeypatch.setattr(masked, "_BLOCK", 3 * 28)
    grid = Choice("raw") if bits is None else Choice("int", bits, group_size=14)
    fields = {**grid.as_dict(), "pattern": "unstructured", "sparsity": 0.7}
    p = decompose(_normal(40, 28), _moment(28), Choice.from_dict(fields))
    W = packed.dense(p.meta, p.tensors)
    ids = torch.tensor([[39, 0], [7, 7]])
    assert torch.equal(packed.rows(p.meta, p.tensors, ids), W[ids])
    x = _normal(2, 5, 28)
    torch.testing.assert_close(packed.matmul(p.meta, p.tensors, x), x @ W.T, rtol=1e-5, atol=1e-5)
    for bad in (-1, 40):
        with pytest.raises(IndexError, match=r"\[0, 39\]"):
            packed.rows(p.meta, p.tensors, torch.tensor([bad]))


def test_an_empty_row_is_a_row_of_zeros() -> None:
    W, mask = _normal(5, 8), torch.ones(5, 8, dtype=torch.bool)
    mask[2] = False
    meta, tensors = masked.pack_values(W, mask, patterns.parse("unstructured"), torch.float32)
    assert torch.equal(masked.dense(meta, tensors), W * mask)


def test_values_that_do_not_fit_are_refused() -> None:
    W, mask = _some("2:4", 4, 8)
    with pytest.raises(ValueError, match="do not fit float16: expected float32, bfloat16"):
        masked.pack_values(W * 1e6, mask, patterns.parse("2:4"), torch.float16)
    with pytest.raises(ValueError, match="do not fit float64"):
        masked.pack_values(W.double(), mask, patterns.parse("2:4"), torch.float64)


def _block(seed: int, n: int, T: int, L: int, share: float) -> dict[str, Any]:
    """A block of columns, each with rows of its own that are zero; some with none, or all."""
    rng = np.random.default_rng(seed)
    U = np.triu(rng.standard_normal((n, n)) * 0.4)
    U[np.diag_indices(n)] = rng.uniform(0.1, 3, n)
    rate = rng.integers(4, 49, n)
    rate[rng.random(n) < 0.2] = -1
    kept = rng.random((n, T)) < share
    kept[rng.random(n) < 0.1] = False
    return {
        "Wt": rng.standard_normal((n, T)).astype(np.float32),
        "U": U.astype(np.float32),
        "rate": rate.astype(np.int32),
        "steps": STEPS,
        "row": np.exp2(rng.integers(-6, 7, T) / 4).astype(np.float32),
        "weight": rng.uniform(0.1, 4, T).astype(np.float32),
        "luts": codebook.values(L),
        "state": int(rng.integers(1 << L)),
        "mask": np.packbits(kept, axis=1, bitorder="little"),
    }


def _assert_same(block: dict[str, Any]) -> None:
    """Values, errors, states, steps and the last state, byte for byte, in C and in numpy."""
    ours, naive = block["Wt"].copy(), block["Wt"].copy()
    found = (ours, *kernels.sweep(**{**block, "Wt": ours}))
    other = (naive, *trellis_reference.sweep(**{**block, "Wt": naive}))
    for a, b in zip(found, other, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@built
@settings(max_examples=40, deadline=None)
@given(
    *(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 90)),
    *(st.integers(9, 11), st.sampled_from([0.05, 0.5, 1.0])),
)
def test_the_masked_sweep_equals_numpy(seed: int, n: int, T: int, L: int, share: float) -> None:
    _assert_same(_block(seed, n, T, L, share))


def test_narrower_vectors_give_the_same_bytes(
    narrow: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "library", lambda: narrow)
    for seed in range(6):
        _assert_same(_block(seed, 3, 80, 9 + seed % 3, 0.5))


def test_a_path_over_what_stays_is_the_path_of_a_shorter_column() -> None:
    """One column: its zeros are not there at all."""
    block = _block(3, 1, 64, 10, 0.5)
    kept = np.unpackbits(block["mask"][0], count=64, bitorder="little").astype(bool)
    block["rate"] = np.array([20], np.int32)
    Wt = block["Wt"].copy()
    _, states, code, last = kernels.sweep(**{**block, "Wt": Wt})
    short = {k: v for k, v in block.items() if k != "mask"}
    short |= {k: np.ascontiguousarray(block[k][kept]) for k in ("row", "weight")}
    part = np.ascontiguousarray(block["Wt"][:, kept])
    _, other, step, end = kernels.sweep(**{**short, "Wt": part})
    assert last == end
    assert np.array_equal(code, step)
    assert np.array_equal(states[0, : kept.sum()], other[0])
    assert np.array_equal(Wt[0, kept], part[0])
    assert not Wt[0, ~kept].any()


@pytest.mark.parametrize("text", ["unstructured", "2:4", "4x1"])
@pytest.mark.parametrize("library", ["C", "torch"])
def test_a_masked_trellis_is_read_as_it_was_made(
    text: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by torch alone, in segments, in rows and in products."""
    if library == "C" and kernels.library() is None:
        pytest.skip("the C kernels were not built")
    monkeypatch.setattr(trellis, "SEGMENT", 32)
    share = {} if ":" in text else {"sparsity": 0.6}
    p = decompose(
        _normal(75, 44), _moment(44), Choice("trellis", 5, pattern=text, state_bits=9, **share)
    )
    assert p.meta["segments"] > 1
    reference = packed.dense(p.meta, p.tensors)
    mask = patterns.unpack(p.meta["mask"], p.tensors["mask"], p.shape)
    assert not reference[~mask].any()
    if library == "torch":
        monkeypatch.setattr(kernels, "library", lambda: None)
    W = packed.dense(p.meta, p.tensors)
    assert torch.equal(W, reference)
    ids = torch.tensor([74, 3, 3, 40])
    assert torch.equal(packed.rows(p.meta, p.tensors, ids), W[ids])
    for batch in (1, 3, 40):
        x = _normal(batch, 44, seed=batch)
        y = packed.matmul(p.meta, p.tensors, x)
        torch.testing.assert_close(y, x @ W.T, rtol=1e-4, atol=1e-4)
