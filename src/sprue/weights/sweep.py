"""The error-feedback sweep: columns in order, each one's error moved into those after it.

GPTQ (Frantar et al. 2022) and LDLQ (QuIP, Chee et al. 2023, theorem 4.2) are this sweep. It runs in
blocks of columns: inside a block column by column, behind it as one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprue.weights import codebook, kernels, patterns
from sprue.weights.grids import integer, trellis
from sprue.weights.patterns import Pattern

BLOCK = 128
# Column steps reach from 24 octaves below the largest weight to 8 above it, which feedback may add;
# their exponents, counted from the least, fit a byte.
_BELOW, _STEPS = 24 * trellis.COLUMN_OCTAVE, 256


@dataclass(frozen=True)
class Coded:
    """A matrix on a trellis.

    Attributes:
        streams: states uint16 [in, rows] of every segment.
        column: int32 [segments, in], exponents of the column steps, in 1/8 octaves.
    """

    streams: list[NDArray[np.uint16]]
    column: NDArray[np.int32]


def along_trellis(
    W: Tensor,
    U: NDArray[np.floating[Any]],
    rate: NDArray[np.int32],
    row: NDArray[np.int32],
    importance: NDArray[np.float64],
    L: int,
    threads: int = 1,
    values: Tensor | None = None,
    mask: Tensor | None = None,
) -> Coded:
    """Code W [out, in] with one path along each column.

    Args:
        W: float32; not changed.
        U: floating [in, in] upper, U^T U the inverse second moment; feedback goes through it in
            float32.
        rate: int32 [in], eighths of a bit, below 0: the column is all zeros.
        row: int32 [out], exponents of the row steps, in 1/4 octaves.
        importance: float64 [out] > 0, what a squared error in each row counts.
        L: bits of a state.
        threads: segments coded at the same time.
        values: float32 [out, in], filled with what will be decoded.
        mask: bool [out, in], what is not zero; None: all.
    """
    visited, count = trellis.order(len(W)), trellis.segments(len(W))
    edge = trellis.bounds(len(W), count)
    U32 = torch.from_numpy(np.asarray(U, np.float32))
    step = np.exp2(row / trellis.ROW_OCTAVE).astype(np.float32)
    weight = importance * step.astype(np.float64) ** 2
    least = _least_exponent(W, torch.from_numpy(step))
    steps = np.exp2((least + np.arange(_STEPS)) / trellis.COLUMN_OCTAVE).astype(np.float32)

    def segment(s: int) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
        rows = visited[edge[s] : edge[s + 1]]
        here = torch.from_numpy(rows.copy())
        Wt = W[here].T.contiguous()
        share = (weight[rows] / weight[rows].mean()).astype(np.float32)
        own = None if mask is None else trellis.bits_of(mask, here)
        states, code = _segment(Wt, U32, rate, steps, step[rows], share, L, own)
        if values is not None:
            values[here] = Wt.T
        return states, code

    with ThreadPoolExecutor(max(1, min(threads, count))) as pool:
        done = list(pool.map(segment, range(count)))
    column = np.stack([code for _, code in done]) + np.int32(least)
    return Coded([states for states, _ in done], column.astype(np.int32))


def _least_exponent(W: Tensor, step: Tensor) -> int:
    """The exponent of the least column step, in 1/8 octaves; `step` [out] divides the rows."""
    peak = float((W / step[:, None]).abs().max())
    top = math.ceil(math.log2(peak) * trellis.COLUMN_OCTAVE) if peak > 0 else 0
    return top - _BELOW


def _segment(
    Wt: Tensor,
    U: Tensor,
    rate: NDArray[np.int32],
    steps: NDArray[np.float32],
    row: NDArray[np.float32],
    weight: NDArray[np.float32],
    L: int,
    mask: NDArray[np.uint8] | None,
) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Codes Wt [in, rows] in place; (states, index of each column's step)."""
    luts, state = codebook.values(L), 0
    states = np.empty(Wt.shape, np.uint16)
    code = np.empty(len(Wt), np.int32)
    for a, b in _blocks(len(Wt)):
        inner = np.ascontiguousarray(U[a:b, a:b].numpy())
        part = np.ascontiguousarray(rate[a:b])
        E, states[a:b], code[a:b], state = kernels.sweep(
            *(Wt[a:b].numpy(), inner, part, steps, row, weight, luts, state),
            None if mask is None else mask[a:b],
        )
        Wt[b:] -= U[a:b, b:].T @ torch.from_numpy(E)
    return states, code


@dataclass(frozen=True)
class Zeros:
    """Zeros that a sweep chooses when it reaches them, by what each costs: w^2 / U_jj^2.

    Attributes:
        pattern: which go together. N:M groups are chosen when their first column is reached;
            other zeros in every `BLOCK` columns, over all rows (SparseGPT, Frantar and Alistarh
            2023, section 3.3).
        sparsity: share of zeros.
        importance: float32 [out] > 0, what a squared error of each row counts.
    """

    pattern: Pattern
    sparsity: float
    importance: Tensor

    @property
    def multiple(self) -> int:
        """Columns that are chosen together."""
        return self.pattern.keep[1] if self.pattern.keep else self.pattern.block[1]

    def chosen(self, W: Tensor, step: Tensor) -> Tensor:
        """The mask of W [out, columns]; `step` [columns], their U_jj."""
        score = (W / step).square_().mul_(self.importance[:, None])
        return patterns.select(score, self.pattern, self.sparsity)


def on_integers(
    W: Tensor,
    U: Tensor,
    bits: int,
    group_size: int | None,
    symmetric: bool,
    importance: Tensor | None = None,
    mask: Tensor | Zeros | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """GPTQ: (codes uint8 [out, in], scale, zero [out, groups], mask bool [out, in] or None).

    The scales of a group are chosen when the sweep reaches it, from the weights as they then are.

    Args:
        W: floating [out, in]; not changed. Computes in its dtype.
        U: [in, in] upper, U^T U the inverse second moment, W's dtype.
        bits: 2 to 8.
        group_size: weights of a row that share a scale; None: the row.
        symmetric: no zero points.
        importance: [in], weighs the squared error that the scales minimize; usually diag(H).
        mask: what is not zero, or how that is chosen on the way; None: all.
    """
    size = W.shape[1] if group_size is None else group_size
    codes = torch.empty(W.shape, dtype=torch.uint8)
    scales: list[Tensor] = []
    zeros: list[Tensor] = []

    def start(j: int, group: Tensor, kept: Tensor) -> None:
        share = None if importance is None else importance[j : j + group.shape[1]]
        if mask is not None:  # zeros need no level: the scale is that of what stays
            group, share = group * kept, kept * (1 if share is None else share)
        scale, zero = integer.fit_scales(group, bits, symmetric, share)
        scales.append(scale)
        zeros.append(zero)

    def column(j: int, w: Tensor) -> Tensor:
        code = integer.quantize(w[:, None], scales[-1], zeros[-1], bits)
        codes[:, j : j + 1] = code
        return integer.dequantize(code, scales[-1], zeros[-1])[:, 0]

    _, found = _sweep(W, U, column, mask, start, size)
    return codes, torch.cat(scales, 1), torch.cat(zeros, 1), found


def on_values(W: Tensor, U: Tensor, mask: Zeros) -> tuple[Tensor, Tensor]:
    """SparseGPT: (W with zeros, its mask), what is not zero kept as it then is."""
    V, found = _sweep(W, U, lambda j, w: w, mask)
    assert found is not None
    return V, found


def _sweep(
    W: Tensor,
    U: Tensor,
    column: Callable[[int, Tensor], Tensor],
    mask: Tensor | Zeros | None,
    start: Callable[[int, Tensor, Tensor], None] | None = None,
    size: int = 1,
) -> tuple[Tensor, Tensor | None]:
    """(what is stored [out, in], its mask), column after column.

    Args:
        W: floating [out, in]; not changed.
        U: [in, in] upper.
        column: what is stored of column j, as feedback has left it.
        mask: as for `on_integers`.
        start: called at each group of `size` columns, with its weights as they then are and what
            is not zero of them, as far as that is known.
        size: columns of a group.
    """
    W, out = W.clone(), len(W)
    kept = torch.ones(W.shape, dtype=torch.bool)
    if isinstance(mask, Tensor):
        kept = mask
    together = mask.multiple if isinstance(mask, Zeros) else 1
    both = math.lcm(size, together)
    for a, b in _blocks(W.shape[1], both if both <= BLOCK else together):
        E = torch.empty(out, b - a, dtype=W.dtype)
        if isinstance(mask, Zeros) and mask.pattern.keep is None:
            kept[:, a:b] = mask.chosen(W[:, a:b], U.diagonal()[a:b])
        for j in range(a, b):
            if isinstance(mask, Zeros) and mask.pattern.keep and j % together == 0:
                end = min(j + together, W.shape[1])
                kept[:, j:end] = mask.chosen(W[:, j:end], U.diagonal()[j:end])
            if start is not None and j % size == 0:
                # columns of the group beyond this block have not had this block's feedback yet
                end = min(j + size, W.shape[1])
                group = W[:, j:end].clone()
                if end > b:
                    group[:, b - j :] -= E[:, : j - a] @ U[a:j, b:end]
                start(j, group, kept[:, j:end])
            value = torch.where(kept[:, j], column(j, W[:, j]).to(W.dtype), 0)
            E[:, j - a] = (W[:, j] - value) / U[j, j]
            W[:, j] = value
            W[:, j + 1 : b] -= E[:, j - a, None] * U[j, None, j + 1 : b]
        W[:, b:] -= E @ U[a:b, b:]
    return W, None if mask is None else kept


def _blocks(n: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Blocks of about BLOCK columns, each a multiple of so many."""
    step = max(1, BLOCK // multiple) * multiple
    for a in range(0, n, step):
        yield a, min(a + step, n)
