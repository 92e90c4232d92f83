"""The trellis grid: any rate from half a bit, in eighths, near what information theory allows.

Every column of the matrix is one path through a shift-register trellis (`codebook`): row t of a
column of rate r/8 adds floor((t+1)r/8) - floor(tr/8) bits to one stream, and its value is looked up
by the last L bits of that stream. The path is found by the Viterbi algorithm (`kernels`), and any
value can be read alone: its place in the stream is known from its row, column and rate.

    w^[row, j] = value(last L bits) * step[j] * step[row]

Rates differ by column (`rates`), steps by column and by row. Rows are visited in an order that
scatters neighbors, so that heads that differ are mixed and share the path's freedom evenly; large
matrices are cut into segments of rows, which can be coded at the same time: before each of them
stand L zeros, the state that its first path starts from.

Stored: `codes` uint8 (the stream, between 4 and 8 bytes of zeros), and small integers, packed:
`rate`, `column` (of each segment, in 1/8 octaves) and `row` (1/4 octaves). Where a `mask` says that
weights are zero (`patterns`), a column's path runs along the rows that it keeps: t counts those.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sprue.weights import bitpack, codebook, kernels, patterns
from sprue.weights.grids import Meta, Tensors
from sprue.weights.patterns import Pattern

LEAD, TAIL = 4, 8  # bytes around the stream: a window may be read whole at either end
SEGMENT = 2048
UNIT = 8  # rates are counted in 1/8 bit
COLUMN_OCTAVE, ROW_OCTAVE = 8, 4
_SMALL_BATCH = 8
_GATHER = 2**22  # weights decoded at a time where there is no kernel


@dataclass(frozen=True)
class Parts:
    """What is stored, unpacked.

    Attributes:
        bits: uint8, the stream with its lead and tail.
        rate: int32 [in], eighths of a bit; below 0 the column is all zeros.
        column: float32 [segments, in] steps.
        row: float32 [out] steps, in the matrix' order.
        start: int64 [segments, in], first bit of each column.
        masks: of each segment uint8 [in, (rows + 7) / 8], a bit for each row that a column keeps;
            None: no weight is zero.
    """

    bits: Tensor
    rate: Tensor
    column: Tensor
    row: Tensor
    start: Tensor
    masks: list[Tensor] | None = None


@cache
def order(count: int) -> NDArray[np.int64]:
    """The order in which rows are visited: a stride near the golden section of their number."""
    stride = max(1, round(count * 0.6180339887))
    while math.gcd(stride, count) != 1:
        stride += 1
    visited = np.arange(count, dtype=np.int64) * stride % count
    visited.flags.writeable = False
    return visited


def bounds(count: int, segments: int) -> list[int]:
    """Where segments of visited rows begin, and the end; sizes differ by one row at most."""
    return [count * i // segments for i in range(segments + 1)]


def segments(count: int) -> int:
    """How many segments `count` rows are cut into."""
    return -(-count // SEGMENT)


def pack(
    shape: tuple[int, int],
    streams: list[NDArray[np.uint16]],
    rate: NDArray[np.int32],
    column: NDArray[np.int32],
    row: NDArray[np.int32],
    L: int,
    zero: tuple[Tensor, Pattern] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(meta, tensors) from states [in, rows] of every segment.

    Args:
        shape: (out, in).
        streams: states of each segment's rows, in the order visited.
        rate: int32 [in], eighths of a bit, below 0 for a column of zeros.
        column: int32 [segments, in], step = 2^(column / 8).
        row: int32 [out], step = 2^(row / 4), in the matrix' order.
        L: bits of a state.
        zero: bool [out, in], what is not zero, and its pattern; None: all.
    """
    used = np.maximum(rate, 0)
    counts = _counts(None if zero is None else zero[0], shape, len(streams))
    total = sum(int((c * used.astype(np.int64) >> 3).sum()) + L for c in counts) - L
    bits = np.zeros(LEAD + -(-total // 8) + TAIL, np.uint8)
    at = 0
    for states, count in zip(streams, counts, strict=True):
        at = kernels.pack(states, count, rate, at, bits) + L
    coded = rate >= 0
    least = int(rate[coded].min()) if coded.any() else 0
    first = int(column[:, coded].min()) if coded.any() else 0
    small = {
        "rate": (least, np.where(coded, rate - least + 1, 0)),
        "column": (first, np.where(coded, column - first, 0)),
        "row": (int(row.min()), row - row.min()),
    }
    tensors, fields = {"codes": torch.from_numpy(bits)}, {}
    for name, (base, value) in small.items():
        width = int(value.max()).bit_length()
        fields[name] = {"base": base, "bits": width}
        if width:
            tensors[name] = bitpack.pack(torch.from_numpy(value.astype(np.int64)), width)
    meta = {"grid": "trellis", "shape": list(shape), "state_bits": L, "fields": fields}
    if zero is not None:
        meta["mask"], tensors["mask"] = patterns.pack(*zero)
    return {**meta, "codebook": codebook.VERSION, "segments": len(streams)}, tensors


def bits_of(mask: Tensor, rows: Tensor) -> NDArray[np.uint8]:
    """The columns of these rows of a mask [out, in] as the kernels read them."""
    return np.packbits(mask[rows].T.contiguous().numpy(), axis=1, bitorder="little")


def _counts(mask: Tensor | None, shape: tuple[int, int], parts: int) -> list[NDArray[np.int32]]:
    """How many rows of each segment a column holds, [in]."""
    edge = bounds(shape[0], parts)
    if mask is None:
        return [np.full(shape[1], b - a, np.int32) for a, b in pairwise(edge)]
    visited = mask[torch.from_numpy(order(shape[0]).copy())]
    return [visited[a:b].sum(0).to(torch.int32).numpy() for a, b in pairwise(edge)]


def dense(meta: Meta, tensors: Tensors) -> Tensor:
    """The matrix, float32 [out, in]."""
    out, width = meta["shape"]
    parts = _parts(meta, tensors)
    W = torch.empty(out, width, device=parts.bits.device)
    for s, rows in enumerate(_segments(meta)):
        W[rows.to(W.device)] = _decode(meta, parts, s, torch.arange(len(rows)), rows)
    return W


def matmul(meta: Meta, tensors: Tensors, x: Tensor) -> Tensor:
    """x @ matrix.T for x [..., in]; at most one segment is ever dense."""
    out, width = meta["shape"]
    parts = _parts(meta, tensors)
    flat = x.reshape(-1, width)
    y = torch.empty(len(flat), out, dtype=x.dtype, device=x.device)
    if _fused(parts, x) and len(flat) <= _SMALL_BATCH:
        _multiply(meta, tensors, flat.contiguous(), y)
        return y.reshape(*x.shape[:-1], out)
    for s, rows in enumerate(_segments(meta)):
        W = _decode(meta, parts, s, torch.arange(len(rows)), rows)
        y[:, rows.to(y.device)] = flat @ W.T.to(x.dtype)
    return y.reshape(*x.shape[:-1], out)


def rows(meta: Meta, tensors: Tensors, ids: Tensor) -> Tensor:
    """The rows `ids` (int64, any shape), float32 [*ids.shape, in], decoding only those.

    Raises:
        IndexError: an id below 0 or beyond the last row.
    """
    out, width = meta["shape"]
    flat = ids.reshape(-1)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < out:
        raise IndexError(f"row ids must lie in [0, {out - 1}]")
    parts = _parts(meta, tensors)
    unique, back = torch.unique(flat.cpu(), return_inverse=True)
    place = torch.from_numpy(_places(out))[unique]
    result = torch.empty(len(unique), width, device=parts.bits.device)
    edge = bounds(out, meta["segments"])
    for s in range(meta["segments"]):
        here = ((place >= edge[s]) & (place < edge[s + 1])).nonzero()[:, 0]
        if len(here):
            here = here[place[here].argsort()]
            local = place[here] - edge[s]
            result[here.to(result.device)] = _decode(meta, parts, s, local, unique[here])
    return result[back.to(result.device)].reshape(*ids.shape, width)


def unpack(meta: Meta, tensors: Tensors) -> Parts:
    """What is stored, as numbers.

    Raises:
        ValueError: a codebook that this version does not have.
    """
    if meta["codebook"] != codebook.VERSION:
        raise ValueError(
            f"the matrix was packed with the codebook {meta['codebook']!r}, this version of sprue "
            f"has {codebook.VERSION!r}: install the version that sprue.json names"
        )
    out, width = meta["shape"]
    rate = _field(meta, tensors, "rate", width)
    used = rate > 0
    rate = torch.where(used, rate + meta["fields"]["rate"]["base"] - 1, -1).to(torch.int32)
    parts = meta["segments"]
    column = _field(meta, tensors, "column", parts * width).reshape(parts, width)
    column = column + meta["fields"]["column"]["base"]
    row = _field(meta, tensors, "row", out) + meta["fields"]["row"]["base"]
    mask = None
    if "mask" in meta:
        mask = patterns.unpack(meta["mask"], tensors["mask"], (out, width)).cpu()
    counts = torch.from_numpy(np.stack(_counts(mask, (out, width), parts)).astype(np.int64))
    lengths = (counts.to(rate.device) * rate.clamp(min=0)[None].to(torch.int64)) >> 3
    ends = lengths.reshape(-1).cumsum(0).reshape(lengths.shape)
    ends += meta["state_bits"] * torch.arange(parts, device=rate.device)[:, None]
    return Parts(
        tensors["codes"],
        rate,
        _octaves(column, COLUMN_OCTAVE),
        _octaves(row, ROW_OCTAVE),
        ends - lengths,
        None
        if mask is None
        else [torch.from_numpy(bits_of(mask, rows)) for rows in _segments(meta)],
    )


@dataclass
class _Kept:
    version: int
    parts: Parts  # without the stream, which would keep itself alive
    segments: list[tuple[Any, tuple[Any, ...], Tensor]] | None = None


# A generation reads the same small fields thousands of times: they are unpacked once, kept for as
# long as the stream they belong to, and again where it was written to.
_KEPT: MutableMapping[Tensor, _Kept] = WeakTensorKeyDictionary()


def _kept(meta: Meta, tensors: Tensors) -> _Kept:
    codes = tensors["codes"]
    version = -1 if codes.is_inference() else codes._version
    kept = _KEPT.get(codes)
    if kept is None or kept.version != version:
        parts = replace(unpack(meta, tensors), bits=codes.new_empty(0))
        kept = _KEPT[codes] = _Kept(version, parts)
    return kept


def _parts(meta: Meta, tensors: Tensors) -> Parts:
    return replace(_kept(meta, tensors).parts, bits=tensors["codes"])


def _ready(meta: Meta, tensors: Tensors) -> list[tuple[Any, tuple[Any, ...], Tensor]]:
    """For each segment: what its arguments point to, the arguments, where its rows go."""
    kept = _kept(meta, tensors)
    if kept.segments is None:
        parts, kept.segments = replace(kept.parts, bits=tensors["codes"]), []
        for s, rows in enumerate(_segments(meta)):
            alive, arguments = _arguments(meta, parts, s, torch.arange(len(rows)), rows)
            if parts.masks is not None:
                arguments = *arguments, parts.masks[s].data_ptr()
            kept.segments.append((alive[1:], arguments, rows.to(torch.int32)))
    return kept.segments


def _field(meta: Meta, tensors: Tensors, name: str, count: int) -> Tensor:
    width = meta["fields"][name]["bits"]
    if not width:
        return torch.zeros(count, dtype=torch.int64, device=tensors["codes"].device)
    return bitpack.unpack(tensors[name], width, count).to(torch.int64)


def _octaves(exponent: Tensor, unit: int) -> Tensor:
    """2^(exponent / unit), computed in float64 so that every device rounds to the same float32."""
    return torch.exp2(exponent.to(torch.float64) / unit).to(torch.float32)


@cache
def _places(count: int) -> NDArray[np.int64]:
    """When each row is visited."""
    place = np.empty(count, np.int64)
    place[order(count)] = np.arange(count)
    return place


def _segments(meta: Meta) -> list[Tensor]:
    """The rows of each segment, in the order visited."""
    count = meta["shape"][0]
    edge = bounds(count, meta["segments"])
    visited = torch.from_numpy(order(count).copy())
    return [visited[a:b] for a, b in pairwise(edge)]


def _fused(parts: Parts, x: Tensor) -> bool:
    """Whether the kernel multiplies: it knows nothing of gradients."""
    learning = x.requires_grad and torch.is_grad_enabled()
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not learning
    return plain and kernels.library() is not None


def _arguments(meta: Meta, parts: Parts, s: int, local: Tensor, rows: Tensor) -> tuple[Any, ...]:
    """What both decoding kernels take, and what keeps it alive."""
    luts = codebook.values(meta["state_bits"])
    picked = local.to(torch.int32).contiguous()
    row = parts.row[rows].contiguous()
    start, column = parts.start[s].contiguous(), parts.column[s].contiguous()
    return (
        (parts.bits, picked, start, column, parts.rate, row),
        (
            parts.bits.data_ptr(),
            meta["shape"][1],
            picked.data_ptr(),
            len(picked),
            start.data_ptr(),
            column.data_ptr(),
            parts.rate.data_ptr(),
            row.data_ptr(),
            luts.ctypes.data,
            meta["state_bits"],
        ),
    )


def _decode(meta: Meta, parts: Parts, s: int, local: Tensor, rows: Tensor) -> Tensor:
    """Rows of segment s, float32 [count, in]: `local` places within it, `rows` of the matrix."""
    lib = kernels.library()
    whole = _segments(meta)[s]
    if parts.masks is not None and len(local) < len(whole):  # a path is read from its beginning
        return _decode(meta, parts, s, torch.arange(len(whole)), whole)[local]
    if lib is None or parts.bits.device.type != "cpu":
        return _gather(meta, parts, s, local, rows)
    _alive, arguments = _arguments(meta, parts, s, local, rows)
    out = torch.empty(meta["shape"][1], len(local))
    if parts.masks is None:
        lib.sprue_trellis_decode(*arguments, out.data_ptr())
    elif lib.sprue_trellis_decode_masked(*arguments, parts.masks[s].data_ptr(), out.data_ptr()):
        raise MemoryError(f"no memory to decode {len(local)} rows")
    return out.T.contiguous()  # rows that are scattered next are copied whole


def _multiply(meta: Meta, tensors: Tensors, x: Tensor, y: Tensor) -> None:
    """y [batch, out] = x [batch, in] times the transpose, decoded as it is multiplied."""
    lib = kernels.library()
    assert lib is not None
    given = x.data_ptr(), len(x)
    segments = _ready(meta, tensors)
    multiply = lib.sprue_trellis_matmul_masked if "mask" in meta else lib.sprue_trellis_matmul

    def one(segment: tuple[Any, tuple[Any, ...], Tensor]) -> int:
        _alive, arguments, place = segment
        return int(multiply(*arguments, *given, place.data_ptr(), y.shape[1], y.data_ptr()))

    if len(segments) > 1 and torch.get_num_threads() > 1:
        short = any(_pool(torch.get_num_threads()).map(one, segments))
    else:
        short = any(one(segment) for segment in segments)
    if short:
        raise MemoryError(f"no memory for a product with {y.shape[1]} rows")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _gather(meta: Meta, parts: Parts, s: int, local: Tensor, rows: Tensor) -> Tensor:
    """`_decode` in torch, on any device."""
    device, L = parts.bits.device, meta["state_bits"]
    luts = torch.from_numpy(codebook.values(L).copy()).to(device).reshape(-1)
    t, step = local.to(device)[:, None], parts.row[rows.to(device)][:, None]
    mask = None if parts.masks is None else _mask_of(parts.masks[s], len(local)).to(device)
    out = torch.empty(len(local), meta["shape"][1], device=device)
    width = max(1, _GATHER // max(len(local), 1))
    for a in range(0, out.shape[1], width):
        b = min(a + width, out.shape[1])
        rate = parts.rate[a:b].to(torch.int64)[None]
        used = rate.clamp(min=0)
        if mask is not None:  # its place among the rows that its column keeps
            t = mask[:, a:b].to(torch.int64).cumsum(0) - 1
            t = t.clamp(min=0)
        low, high = t * used >> 3, (t + 1) * used >> 3
        first = parts.start[s, a:b] + high + 8 * LEAD - L
        byte = first >> 3
        word = sum(parts.bits[byte + i].to(torch.int64) << (8 * (2 - i)) for i in range(3))
        state = (word >> (24 - L - (first & 7))) & ((1 << L) - 1)
        value = luts[((high - low) << L) + state] * (parts.column[s, a:b] * step)
        none = rate < 0 if mask is None else (rate < 0) | ~mask[:, a:b]
        out[:, a:b] = torch.where(none, 0.0, value)
    return out


def _mask_of(bits: Tensor, count: int) -> Tensor:
    """bool [count, in] of what `bits_of` gave."""
    plain = np.unpackbits(bits.numpy(), axis=1, count=count, bitorder="little")
    return torch.from_numpy(plain.T.copy()).to(torch.bool)
