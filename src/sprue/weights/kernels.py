"""The C kernels, through ctypes; numpy does the same where they were not built."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprue.weights import trellis_reference as reference

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

WIDEST = 512  # bits of the widest vectors that are used
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ALONE = 1 << 19  # weights of a product below which another thread costs more than it brings


@cache
def library() -> ctypes.CDLL | None:
    """The shared library, or None where it was not built."""
    found = sorted(Path(__file__).parent.glob("_kernels.*"))
    for path in found:
        if path.suffix in (".so", ".dll", ".dylib"):
            return _declared(ctypes.CDLL(str(path)))
    return None


def sweep(
    Wt: F32,
    U: F32,
    rate: I32,
    steps: F32,
    row: F32,
    weight: F32,
    luts: F32,
    state: int,
    mask: U8 | None = None,
) -> tuple[F32, NDArray[np.uint16], I32, int]:
    """Error-feedback sweep over the columns of one block, with a trellis along each.

    Args:
        Wt: float32 [n, T], column-major weights; becomes the quantized values.
        U: float32 [n, n], upper factor of the inverse second moment.
        rate: int32 [n] in eighths of a bit, below 0: the column is all zeros.
        steps: float32 ascending, the steps that a column can have.
        row: float32 [T], step of each row.
        weight: float32 [T], importance of an error in each row, over its step.
        luts: float32 [9, 2^L] from `codebook.values`.
        state: the last L bits of the stream.
        mask: uint8 [n, (T + 7) / 8], a bit for each row that a column keeps, least first; a path
            runs along those, the others become 0. None: all.

    Returns:
        (E [n, T]: each column's error over U[j, j]; states uint16 [n, T]; index of each column's
        step; the new state).
    """
    lib = library()
    if lib is None:
        return reference.sweep(Wt, U, rate, steps, row, weight, luts, state, mask)
    n, T = Wt.shape
    E, states, code = np.empty_like(Wt), np.zeros((n, T), np.uint16), np.zeros(n, np.int32)
    end = ctypes.c_uint32(state)
    L = int(luts.shape[1]).bit_length() - 1
    arrays = (Wt, E, U, rate, steps, code, row, weight, luts, states)
    w, e, u, r, s, c, ro, we, lu, st = (_address(a) for a in arrays)
    short = lib.sprue_trellis_sweep(
        *(w, e, u, n, T, r, s, len(steps), c, ro, we, lu, L, ctypes.byref(end)),
        *(None if mask is None else _address(mask), st),
    )
    if short:
        raise MemoryError("the trellis sweep found no memory for its back pointers")
    return E, states, code, int(end.value)


def pack(states: NDArray[np.uint16], count: I32, rate: I32, at: int, bits: U8) -> int:
    """Append the first `count` [n] of the states [n, T] of each column from bit `at` on.

    Returns:
        The bit after the last.
    """
    lib = library()
    if lib is None:
        return reference.pack(states, count, rate, at, bits)
    n, T = states.shape
    a, b, c, d = (_address(v) for v in (states, count, rate, bits))
    return int(lib.sprue_trellis_pack(a, n, T, b, c, at, d))


def columns(weight: Tensor, x: Tensor, widest: int = WIDEST) -> Tensor | None:
    """x @ weight, without reading the rows of `weight` that meet a zero; None: not built.

    Args:
        weight: [in, out] float32, bfloat16 or float16, contiguous, on the CPU.
        x: float32 [in]; NaN and infinity are no zeros.
        widest: bits of vectors to use at most; the result has the same bytes for all.

    Returns:
        float32 [out], summed in float32, the same bytes for any number of threads.
    """
    lib = library()
    if lib is None:
        return None
    inputs, outputs = weight.shape
    x, weight = x.contiguous(), weight.contiguous()
    y = torch.empty(outputs)
    given = weight.data_ptr(), _KINDS[weight.dtype], inputs, outputs, x.data_ptr()
    width = lib.sprue_columns_width(widest)

    def part(first: int, last: int) -> None:
        lib.sprue_columns_product(*given, first, last, y.data_ptr(), width)

    threads = 1 if weight.numel() < _ALONE else min(torch.get_num_threads(), outputs)
    edges = [outputs * k // threads for k in range(threads + 1)]
    others = [
        _pool(os.getpid(), threads).submit(part, *edges[k : k + 2]) for k in range(1, threads)
    ]
    part(0, edges[1])
    for other in others:
        other.result()
    return y


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads beside the caller's own; those of a parent process do not live in its children."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="sprue")


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    p, i, big = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    lib.sprue_trellis_sweep.argtypes = [p, p, p, i, i, p, p, i, p, p, p, p, i, p, p, p]
    lib.sprue_trellis_sweep.restype = i
    lib.sprue_trellis_pack.argtypes = [p, i, i, p, p, big, p]
    lib.sprue_trellis_pack.restype = big
    lib.sprue_trellis_decode.argtypes = [p, i, p, i, p, p, p, p, p, i, p]
    lib.sprue_trellis_decode.restype = None
    lib.sprue_trellis_matmul.argtypes = [p, i, p, i, p, p, p, p, p, i, p, i, p, i, p]
    lib.sprue_trellis_matmul.restype = i
    lib.sprue_trellis_decode_masked.argtypes = [p, i, p, i, p, p, p, p, p, i, p, p]
    lib.sprue_trellis_decode_masked.restype = i
    lib.sprue_trellis_matmul_masked.argtypes = [p, i, p, i, p, p, p, p, p, i, p, p, i, p, i, p]
    lib.sprue_trellis_matmul_masked.restype = i
    lib.sprue_columns_width.argtypes, lib.sprue_columns_width.restype = [i], i
    lib.sprue_columns_product.argtypes = [p, i, big, big, p, big, big, p, i]
    lib.sprue_columns_product.restype = None
    return lib


def _address(array: NDArray[Any]) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("the kernels take contiguous arrays")
    return array.ctypes.data
