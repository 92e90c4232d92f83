"""The kernels of `_kernels.c` in numpy: the same bytes, some hundred times slower.

They serve where no C compiler was at hand when sprue was installed, and tests hold the C to them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

_RENORMALIZE = 16


def shifts(T: int, rate: int) -> NDArray[np.int64]:
    """Bits that each of T rows adds at a rate in eighths of a bit."""
    ends = np.arange(T + 1, dtype=np.int64) * rate >> 3
    return np.diff(ends)


def viterbi(
    x: F32, rate: int, weight: F32, luts: F32, state: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cheapest path of states for x [T] from `state`; (states [T], bits shifted [T])."""
    L = int(luts.shape[1]).bit_length() - 1
    T, k = len(x), shifts(len(x), rate)
    best = np.full(1 << (L - k[0]), 1e30, np.float32)
    best[state & ((1 << (L - k[0])) - 1)] = 0
    back: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)]
    for t in range(T - 1):
        cost = _cost(best, x[t], weight[t], luts[k[t]], int(k[t]))
        best, winner = _fold(cost, int(k[t + 1]))
        back.append(winner)
        if t % _RENORMALIZE == _RENORMALIZE - 1:
            best = best - best.min()
    last = _cost(best, x[-1], weight[-1], luts[k[-1]], int(k[-1]))
    s = int(np.argmin(last))
    states = np.empty(T, np.int64)
    for t in range(T - 1, -1, -1):
        states[t] = s
        if t:
            m = s >> int(k[t])
            s = (int(back[t][m]) << int(L - k[t])) | m
    return states, k


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
    """`sprue_trellis_sweep`: quantizes Wt [n, T] in place; (E, states, code, state)."""
    n, T = Wt.shape
    E = np.empty_like(Wt)
    states = np.zeros((n, T), np.uint16)
    code = np.zeros(n, np.int32)
    for j in range(n):
        q = np.zeros(T, np.float32)
        at = np.arange(T) if mask is None else np.flatnonzero(_bits(mask[j], T))
        if rate[j] >= 0 and len(at):
            x, own = Wt[j, at] / row[at], weight[at]
            step = steps[_nearest(steps, float((x.astype(np.float64) ** 2).sum() / len(at)))]
            x = x / step
            path, k = viterbi(x, int(rate[j]), own, luts, state)
            state, states[j, : len(at)] = int(path[-1]), path
            value = luts[k, path].astype(np.float64)
            cross, power = (own * value * x).sum(), (own * value * value).sum()
            fit = float(step) * (cross / power) if power > 0 and cross > 0 else float(step)
            code[j] = _nearest(steps, fit * fit)
            q[at] = luts[k, path] * (steps[code[j]] * row[at])
        E[j] = (Wt[j] - q) * (np.float32(1) / U[j, j])
        Wt[j] = q
        Wt[j + 1 :] -= U[j, j + 1 :, None] * E[j]
    return E, states, code, state


def pack(states: NDArray[np.uint16], count: I32, rate: I32, at: int, bits: U8) -> int:
    """`sprue_trellis_pack`: append the columns' bits to the stream; the bit after the last."""
    parts = []
    for column, n, r in zip(states, count, rate, strict=True):
        if r < 0:
            continue
        k = shifts(int(n), int(r))
        width = np.arange(int(k.max(initial=0)) - 1, -1, -1)
        parts.append(((column[:n, None] >> width) & 1)[width < k[:, None]])
    flat = np.concatenate(parts) if parts else np.empty(0, np.int64)
    index = at + 32 + np.arange(len(flat))
    np.bitwise_or.at(bits, index >> 3, (flat << (7 - (index & 7))).astype(np.uint8))
    return at + len(flat)


def _cost(best: F32, x: np.float32, w: np.float32, lut: F32, k: int) -> F32:
    d = x - lut
    return np.asarray(np.repeat(best, 1 << k) + w * (d * d), np.float32)


def _fold(cost: F32, k: int) -> tuple[F32, NDArray[np.uint8]]:
    """(costs, winners) of the states that share their low bits: the winner's top k bits ride in
    the low k bits of its cost, and break ties."""
    mask = (1 << k) - 1
    tops = cost.view(np.int32).reshape(1 << k, -1)
    tagged = (tops & ~mask) | np.arange(1 << k, dtype=np.int32)[:, None]
    low = tagged.min(axis=0)
    return (low & ~mask).view(np.float32), (low & mask).astype(np.uint8)


def _nearest(steps: F32, square: float) -> int:
    middle = steps[:-1].astype(np.float64) * steps[1:].astype(np.float64)
    return int((square > middle).sum())


def _bits(mask: U8, count: int) -> U8:
    return np.unpackbits(mask, count=count, bitorder="little")
