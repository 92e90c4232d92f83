"""Values beside a mask: what stays is stored, as floats or as integer codes, row after row.

    w^ = mask * value        or        w^ = mask * scale * (code - zero)

The scales of integer codes are those of `integer`, for groups of neighbors along `in`, zeros
included. The mask is stored by its pattern (`patterns`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sprue.weights import bitpack, patterns
from sprue.weights.grids import Meta, Tensors, integer, raw, row_blocks
from sprue.weights.patterns import Pattern

_BLOCK = 2**20


def pack_values(
    W: Tensor, mask: Tensor, pattern: Pattern, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Stores what the mask keeps of W [out, in] in `dtype` (float16, bfloat16 or float32).

    Raises:
        ValueError: another dtype, or values that it cannot hold.
    """
    values = W[mask].to(dtype)
    if dtype not in raw.DTYPES or not torch.isfinite(values).all():
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"the weights do not fit {name}: expected float32, bfloat16 or float16")
    told, stored = patterns.pack(mask, pattern)
    meta = {"grid": "masked", "shape": list(W.shape), "mask": told}
    return meta, {"mask": stored, "values": values}


def pack_codes(
    coded: tuple[Tensor, Tensor, Tensor],
    mask: Tensor,
    pattern: Pattern,
    *,
    bits: int,
    group_size: int | None,
    symmetric: bool,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Stores what the mask keeps of (codes [out, in], scale, zero [out, groups])."""
    codes, scale, zero = coded
    whole, tensors = integer.pack(
        *(codes, scale, zero), bits=bits, group_size=group_size, symmetric=symmetric
    )
    told, stored = patterns.pack(mask, pattern)
    tensors = {**tensors, "codes": bitpack.pack(codes[mask], bits), "mask": stored}
    return {**whole, "grid": "masked", "codes": "int", "mask": told}, tensors


def stored_bits(shape: tuple[int, int], kept: int, pattern: Pattern, value_bits: int) -> int:
    """What `pack_values` stores, in bits."""
    return patterns.stored_bits(shape, pattern) + kept * value_bits


def dense(meta: Meta, tensors: Tensors) -> Tensor:
    """The matrix, float32 [out, in]."""
    return torch.cat([W for _, W in _blocks(meta, tensors)])


def matmul(meta: Meta, tensors: Tensors, x: Tensor) -> Tensor:
    """x @ matrix.T in x's dtype; a block of rows is dense at a time."""
    return torch.cat([x @ W.to(x.dtype).T for _, W in _blocks(meta, tensors)], dim=-1)


def rows(meta: Meta, tensors: Tensors, ids: Tensor) -> Tensor:
    """The rows `ids`, float32 [*ids.shape, in]; IndexError where there is no such row."""
    out, width = meta["shape"]
    flat = ids.reshape(-1)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < out:
        raise IndexError(f"row ids must lie in [0, {out - 1}]")
    result = torch.empty(len(flat), width, device=tensors["mask"].device)
    for start, W in _blocks(meta, tensors):
        here = (flat >= start) & (flat < start + len(W))
        result[here] = W[flat[here] - start]
    return result.view(*ids.shape, width)


def _blocks(meta: Meta, tensors: Tensors) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows as float32) in order: a row's values begin where those before end."""
    out, width = meta["shape"]
    mask = patterns.unpack(meta["mask"], tensors["mask"], (out, width))
    at, total = 0, meta["mask"]["kept"]
    for start, stop in row_blocks((out, width), _BLOCK):
        part = mask[start:stop]
        count = int(part.sum())
        yield start, _values(meta, tensors, (start, stop), part, (at, at + count, total))
        at += count


def _values(
    meta: Meta, tensors: Tensors, rows: tuple[int, int], mask: Tensor, span: tuple[int, int, int]
) -> Tensor:
    """The rows start .. stop; `span` is where their values lie, and how many there are at all."""
    first, last, total = span
    if "codes" not in meta:
        W = torch.zeros(mask.shape, device=mask.device)
        W[mask] = tensors["values"][first:last].to(torch.float32)
        return W
    codes = torch.zeros(mask.shape, dtype=torch.uint8, device=mask.device)
    codes[mask] = bitpack.unpack(tensors["codes"], meta["bits"], total, first, last)
    return integer.apply(meta, codes, *integer.steps(meta, tensors, *rows)) * mask
