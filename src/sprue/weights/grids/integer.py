"""Integer grids of 2 to 8 bits: w^ = scale * (code - zero), one scale per group of a row.

A group is `group_size` neighbours along `in` (the last group of a row may be shorter; None: the
whole row). The scale is stored in float16. An asymmetric grid stores an integer zero of `bits` bits
per group, and holds the value 0. A symmetric grid stores none: its zero is the middle of the codes,
(2^bits - 1) / 2, so that all 2^bits levels serve and mirror each other (at 2 bits ±1/2 and ±3/2
steps; the usual integer zero would leave three levels and one to spare).

    >>> meta, tensors = round_to_nearest(torch.eye(2, 8), bits=4, group_size=4, symmetric=False)
    >>> bool(torch.allclose(dense(meta, tensors), torch.eye(2, 8), rtol=2**-11))
    True
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sprue.weights import bitpack
from sprue.weights.grids import Meta, Tensors, row_blocks

# Weights decoded at a time: small enough that a block stays in a processor's cache for the few
# passes over it, large enough that starting an operation costs little beside it.
_BLOCK = {"cpu": 2**18, "other": 2**24}
_FIT_BLOCK = 2**22

# The narrowest range tried, as a part of the full one. Few levels want the tails cut off most.
_NARROWEST = {2: 0.3, 3: 0.4, 4: 0.5, 5: 0.6, 6: 0.7, 7: 0.8, 8: 0.85}
_TRIALS = 20
_REFITS = 2


def fit_scales(
    W: Tensor,
    bits: int,
    symmetric: bool,
    importance: Tensor | None = None,
    *,
    search: bool = True,
) -> tuple[Tensor, Tensor]:
    """The scale and zero of each group, for the least sum(importance * (W - W^)^2).

    The full range (min-max) is always tried; with `search` also narrower ranges, which clip the
    tails, and least-squares refits of the best. A candidate's scale is rounded to float16 before
    it is scored: what is returned is what was scored.

    Args:
        W: floating [..., group], one group in its last dimension.
        bits: 2 to 8.
        symmetric: whether the zero is the middle of the codes.
        importance: non-negative, broadcasts to W (for example the diagonal of H); None: all 1.
        search: False: min-max only.

    Returns:
        (scale float16 [..., 1], zero float32 [..., 1]).

    Raises:
        ValueError: `bits` out of range, NaN or infinity, or weights too large for a float16 scale.
    """
    _check_bits(bits)
    W = _finite(W)
    weight = torch.ones(()) if importance is None else importance.to(torch.float32)
    weight = weight.to(W.device)
    best = _from_range(W, bits, symmetric, 1.0)
    if not torch.isfinite(best[0]).all():
        raise ValueError(
            f"a weight of {float(W.abs().max()):.3g} needs a scale above float16's largest, "
            f"{torch.finfo(torch.float16).max:.0f}"
        )
    if not search:
        return best
    error = _error(W, *best, bits, weight)
    for trial in range(1, _TRIALS):
        part = 1.0 - (1.0 - _NARROWEST[bits]) * trial / (_TRIALS - 1)
        best, error = _better(W, bits, weight, best, error, _from_range(W, bits, symmetric, part))
    for _ in range(_REFITS):
        refitted = _refit(W, bits, symmetric, weight, *best)
        best, error = _better(W, bits, weight, best, error, refitted)
    return best


def quantize(W: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The codes of the nearest levels, uint8 of W's shape; scale and zero broadcast to W."""
    step = scale.to(torch.float32)
    # A scale of 0 has one level, 0: any code stands for it.
    steps = torch.where(step > 0, W.to(torch.float32) / step, torch.zeros_like(step))
    return (steps + zero).round_().clamp_(0, 2**bits - 1).to(torch.uint8)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """scale * (codes - zero), float32; scale and zero broadcast to the codes."""
    return (codes.to(torch.float32) - zero) * scale.to(torch.float32)


def fit(
    W: Tensor,
    bits: int,
    group_size: int | None,
    symmetric: bool,
    importance: Tensor | None = None,
    *,
    search: bool = True,
) -> tuple[Tensor, Tensor]:
    """`fit_scales` for all groups of W [out, in]; importance [in] or None.

    Returns:
        (scale float16 [out, groups], zero float32 [out, groups]).
    """
    if importance is not None and importance.shape != W.shape[1:]:
        raise ValueError(
            f"expected one importance for each of {W.shape[1]} columns, "
            f"received {list(importance.shape)}"
        )
    blocks = [
        [
            fit_scales(part, bits, symmetric, share, search=search)
            for part, share in _grouped(W[start:stop], importance, group_size)
        ]
        for start, stop in row_blocks((W.shape[0], W.shape[1]), _FIT_BLOCK)
    ]
    scales, zeros = (
        torch.cat([torch.cat([p[which].flatten(1) for p in parts], 1) for parts in blocks])
        for which in (0, 1)
    )
    return scales, zeros


def expand(values: Tensor, group_size: int | None, width: int) -> Tensor:
    """Repeats a value per group [out, groups] for each of the group's columns: [out, width]."""
    if group_size is None:
        return values.expand(-1, width)
    return values.repeat_interleave(group_size, dim=1)[:, :width]


def pack(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    *,
    bits: int,
    group_size: int | None,
    symmetric: bool,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is stored of codes [out, in], scale and zero [out, groups]: (meta, tensors)."""
    _check_bits(bits)
    expected = (codes.shape[0], groups(codes.shape[1], group_size))
    if scale.shape != expected or zero.shape != expected:
        raise ValueError(
            f"expected a scale and a zero for each of {list(expected)} groups, "
            f"received {list(scale.shape)} and {list(zero.shape)}"
        )
    meta = {
        "grid": "int",
        "shape": list(codes.shape),
        "bits": bits,
        "group_size": group_size,
        "symmetric": symmetric,
    }
    tensors = {"codes": bitpack.pack(codes, bits), "scale": scale.to(torch.float16).contiguous()}
    if not symmetric:
        tensors["zero"] = bitpack.pack(zero.to(torch.int16), bits)
    return meta, tensors


def round_to_nearest(
    W: Tensor,
    bits: int,
    group_size: int | None,
    symmetric: bool,
    importance: Tensor | None = None,
    *,
    search: bool = True,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fits, quantizes and packs W [out, in]: (meta, tensors)."""
    scale, zero = fit(W, bits, group_size, symmetric, importance, search=search)
    codes = torch.empty(W.shape, dtype=torch.uint8, device=W.device)
    for start, stop in row_blocks((W.shape[0], W.shape[1]), _FIT_BLOCK):
        step, middle = (expand(t[start:stop], group_size, W.shape[1]) for t in (scale, zero))
        codes[start:stop] = quantize(W[start:stop], step, middle, bits)
    return pack(codes, scale, zero, bits=bits, group_size=group_size, symmetric=symmetric)


def groups(width: int, group_size: int | None) -> int:
    """The groups of a row of `width` weights."""
    if group_size is not None and group_size < 1:
        raise ValueError(f"a group holds at least 1 weight, received {group_size}")
    return 1 if group_size is None else -(-width // group_size)


def stored_bits(shape: tuple[int, int], bits: int, group_size: int | None, symmetric: bool) -> int:
    """Everything that `pack` stores for a matrix of this shape, in bits."""
    _check_bits(bits)
    count = shape[0] * groups(shape[1], group_size)
    zeros = 0 if symmetric else bitpack.packed_bytes(count, bits)
    return 8 * (bitpack.packed_bytes(shape[0] * shape[1], bits) + 2 * count + zeros)


def dense(meta: Meta, tensors: Tensors) -> Tensor:
    """The matrix, float32 [out, in]."""
    return _decode(meta, tensors, 0, meta["shape"][0])


def matmul(meta: Meta, tensors: Tensors, x: Tensor) -> Tensor:
    """x @ matrix.T in x's dtype; decodes a block of rows at a time and keeps none."""
    count, width = meta["shape"]
    block = _BLOCK["cpu" if x.device.type == "cpu" else "other"]
    # More rows of x do more work on each decoded block, and a GEMM wants it larger.
    block *= max(1, min(16, x.numel() // max(width, 1) // 16))
    blocks = row_blocks((count, width), block)
    return torch.cat([x @ _decode(meta, tensors, *rows_).to(x.dtype).T for rows_ in blocks], dim=-1)


def rows(meta: Meta, tensors: Tensors, ids: Tensor) -> Tensor:
    """The rows `ids`, float32 [*ids.shape, in]; IndexError where there is no such row."""
    count, width = meta["shape"]
    flat = ids.reshape(-1).to(torch.int64)
    # The lookup that refuses ids below 0 or beyond the last row goes first.
    scale = nn.functional.embedding(flat, tensors["scale"]).to(torch.float32)
    codes = bitpack.gather_rows(tensors["codes"], meta["bits"], (count, width), flat)
    if meta["symmetric"]:
        values = apply(meta, codes, scale, None)
    else:
        shape = (count, scale.shape[1])
        zero = bitpack.gather_rows(tensors["zero"], meta["bits"], shape, flat)
        values = apply(meta, codes, scale, zero.to(torch.float32))
    return values.view(*ids.shape, width)


def _decode(meta: Meta, tensors: Tensors, start: int, stop: int) -> Tensor:
    """The rows start .. stop, float32."""
    (count, width), bits = meta["shape"], meta["bits"]
    codes = bitpack.unpack(tensors["codes"], bits, count * width, start * width, stop * width)
    return apply(meta, codes.view(-1, width), *steps(meta, tensors, start, stop))


def steps(meta: Meta, tensors: Tensors, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
    """(scale, zero or None) of the rows start .. stop, float32 [rows, groups]."""
    scale = tensors["scale"][start:stop].to(torch.float32)
    if meta["symmetric"]:
        return scale, None
    per_row = scale.shape[1]
    span = (meta["shape"][0] * per_row, start * per_row, stop * per_row)
    zero = bitpack.unpack(tensors["zero"], meta["bits"], *span)
    return scale, zero.view(scale.shape).to(torch.float32)


def apply(meta: Meta, codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """`dequantize` in place of a fresh float32 matrix; scale and zero [rows, groups]."""
    values = codes.to(torch.float32)
    if zero is None:
        values.sub_(_middle(meta["bits"]))
    width = values.shape[1]
    group_size = min(meta["group_size"] or width, width)
    whole = width // group_size
    # The last group of a row may be shorter, and then does not fit the view by groups.
    parts = [(values[:, : whole * group_size].view(-1, whole, group_size), slice(whole))]
    if whole < scale.shape[1]:
        parts.append((values[:, whole * group_size :].unsqueeze(1), slice(whole, None)))
    for part, which in parts:
        if zero is not None:
            part.sub_(zero[:, which, None])
        part.mul_(scale[:, which, None])
    return values


def _middle(bits: int) -> float:
    return float(2**bits - 1) / 2


def _check_bits(bits: int) -> None:
    if bits not in _NARROWEST:
        raise ValueError(f"an integer grid has 2 to 8 bits, received {bits}")


def _finite(W: Tensor) -> Tensor:
    W = W.to(torch.float32)
    if not torch.isfinite(W).all():
        raise ValueError("the weights hold NaN or infinity: expected finite numbers")
    return W


def _grouped(
    W: Tensor, importance: Tensor | None, group_size: int | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """W [out, groups, size] with its importance [groups, size]: the whole groups, then the rest."""
    width = W.shape[1]
    size = min(group_size or width, width)
    groups(width, group_size)
    whole = width // size * size
    for begin, end, each in ((0, whole, size), (whole, width, width - whole)):
        if begin < end:
            share = None if importance is None else importance[begin:end].view(-1, each)
            yield W[:, begin:end].reshape(len(W), -1, each), share


def _from_range(W: Tensor, bits: int, symmetric: bool, part: float) -> tuple[Tensor, Tensor]:
    """The grid that spans `part` of the range of W, which always holds 0."""
    top = 2**bits - 1
    if symmetric:
        scale = (W.abs().amax(-1, keepdim=True) * (2 * part / top)).to(torch.float16)
        return scale, torch.full_like(scale, _middle(bits), dtype=torch.float32)
    low = W.amin(-1, keepdim=True).clamp(max=0) * part
    high = W.amax(-1, keepdim=True).clamp(min=0) * part
    scale = ((high - low) / top).to(torch.float16)
    return scale, _nearest_zero(-low, scale, top)


def _nearest_zero(below: Tensor, scale: Tensor, top: int) -> Tensor:
    """The integer zero that puts level 0 nearest to -below."""
    step = scale.to(torch.float32)
    zero = torch.where(step > 0, below / step, torch.zeros_like(step))
    return zero.round_().clamp_(0, top)


def _refit(
    W: Tensor, bits: int, symmetric: bool, weight: Tensor, scale: Tensor, zero: Tensor
) -> tuple[Tensor, Tensor]:
    """The least-squares scale (and, asymmetric, zero) for the codes of the given ones."""
    codes = quantize(W, scale, zero, bits).to(torch.float32)
    weight = weight.expand_as(W)
    if symmetric:
        levels = codes - zero
        return _ratio((weight * W * levels).sum(-1), (weight * levels * levels).sum(-1)), zero
    total = weight.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    mean_w = (weight * W).sum(-1, keepdim=True) / total
    mean_c = (weight * codes).sum(-1, keepdim=True) / total
    apart = codes - mean_c
    new = _ratio((weight * apart * (W - mean_w)).sum(-1), (weight * apart * apart).sum(-1))
    return new, _nearest_zero(mean_c * new.to(torch.float32) - mean_w, new, 2**bits - 1)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below as a float16 scale [..., 1]; 0 where nothing is below, never negative."""
    quotient = torch.where(below > 0, above / below, torch.zeros_like(below))
    largest = torch.finfo(torch.float16).max
    return quotient.clamp(0, largest).to(torch.float16).unsqueeze(-1)


def _error(W: Tensor, scale: Tensor, zero: Tensor, bits: int, weight: Tensor) -> Tensor:
    off = dequantize(quantize(W, scale, zero, bits), scale, zero).sub_(W)
    return (off.square_() * weight).sum(-1, keepdim=True)


def _better(
    W: Tensor,
    bits: int,
    weight: Tensor,
    best: tuple[Tensor, Tensor],
    error: Tensor,
    trial: tuple[Tensor, Tensor],
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The better of two grids, group by group; the earlier where they are equal."""
    new = _error(W, *trial, bits, weight)
    wins = new < error
    scale, zero = (torch.where(wins, b, a) for a, b in zip(best, trial, strict=True))
    return (scale, zero), torch.where(wins, new, error)
