"""The error-feedback sweep: columns in order, each one's error moved into those after it.

GPTQ (Frantar et al. 2022) and LDLQ (QuIP, Chee et al. 2023, theorem 4.2) are this sweep. It runs in
blocks of columns: inside a block column by column, behind it as one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprue.weights import codebook, kernels
from sprue.weights.grids import integer, trellis

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
        states, code = _segment(Wt, U32, rate, steps, step[rows], share, L)
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
) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Codes Wt [in, rows] in place; (states, index of each column's step)."""
    luts, state = codebook.values(L), 0
    states = np.empty(Wt.shape, np.uint16)
    code = np.empty(len(Wt), np.int32)
    for a, b in _blocks(len(Wt)):
        inner = np.ascontiguousarray(U[a:b, a:b].numpy())
        part = np.ascontiguousarray(rate[a:b])
        E, states[a:b], code[a:b], state = kernels.sweep(
            Wt[a:b].numpy(), inner, part, steps, row, weight, luts, state
        )
        Wt[b:] -= U[a:b, b:].T @ torch.from_numpy(E)
    return states, code


def on_integers(
    W: Tensor,
    U: Tensor,
    bits: int,
    group_size: int | None,
    symmetric: bool,
    importance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """GPTQ: (codes uint8 [out, in], scale, zero [out, groups]).

    The scales of a group are chosen when the sweep reaches it, from the weights as they then are.

    Args:
        W: floating [out, in]; not changed. Computes in its dtype.
        U: [in, in] upper, U^T U the inverse second moment, W's dtype.
        bits: 2 to 8.
        group_size: weights of a row that share a scale; None: the row.
        symmetric: no zero points.
        importance: [in], weighs the squared error that the scales minimize; usually diag(H).
    """
    W = W.clone()
    size = W.shape[1] if group_size is None else group_size
    codes = torch.empty(W.shape, dtype=torch.uint8)
    scales, zeros = [], []
    for a, b in _blocks(W.shape[1], size):
        E = torch.empty(len(W), b - a, dtype=W.dtype)
        for j in range(a, b):
            if j % size == 0:
                # columns of the group beyond this block have not had this block's feedback yet
                end = min(j + size, W.shape[1])
                group = W[:, j:end].clone()
                if end > b:
                    group[:, b - j :] -= E[:, : j - a] @ U[a:j, b:end]
                share = None if importance is None else importance[j:end]
                scale, zero = integer.fit_scales(group, bits, symmetric, share)
                scales.append(scale)
                zeros.append(zero)
            code = integer.quantize(W[:, j : j + 1], scales[-1], zeros[-1], bits)
            value = integer.dequantize(code, scales[-1], zeros[-1]).to(W.dtype)
            codes[:, j : j + 1] = code
            E[:, j - a] = (W[:, j] - value[:, 0]) / U[j, j]
            W[:, j + 1 : b] -= E[:, j - a, None] * U[j, None, j + 1 : b]
        W[:, b:] -= E @ U[a:b, b:]
    return codes, torch.cat(scales, 1), torch.cat(zeros, 1)


def _blocks(n: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Blocks of about BLOCK columns; whole groups where they are that small."""
    step = BLOCK // multiple * multiple if multiple <= BLOCK else BLOCK
    for a in range(0, n, step):
        yield a, min(a + step, n)
