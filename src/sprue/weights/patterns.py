"""Which weights may be zero together: unstructured, N of M, blocks; and how a mask is stored.

    "unstructured"  any weight; the share is stated
    "2:4", "5:10"   of every M neighbors along the inputs N stay (Mishra et al. 2021); the share of
                    zeros is 1 - N/M
    "16x1", "4x4"   blocks of R outputs x C inputs; the share is stated

A mask is stored as one bit a weight, or, where every group of M holds exactly N, as the number of
its combination, in ceil(log2(M choose N)) bits: 0.75 bits a weight for 2:4, 0.8 for 5:10.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import ceil, comb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprue.weights import bitpack

UNSTRUCTURED = "unstructured"
_FORM = re.compile(r"([1-9][0-9]{0,3})([:x])([1-9][0-9]{0,3})")
_MOST_GROUP = 16  # of M for which combinations are numbered
_PIECE = 1 << 20  # weights whose groups are compared at once


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern.

    Attributes:
        text: as it was written.
        keep: (N, M) of an N:M pattern, or None.
        block: (rows, columns) of a block; (1, 1) for single weights.
    """

    text: str
    keep: tuple[int, int] | None = None
    block: tuple[int, int] = (1, 1)

    @property
    def sparsity(self) -> float | None:
        """The share of zeros that the pattern itself fixes; None: to be stated."""
        return None if self.keep is None else 1 - self.keep[0] / self.keep[1]


def parse(text: str) -> Pattern:
    """The pattern that a text names.

    Raises:
        ValueError: another form, or N not below M.
    """
    if text == UNSTRUCTURED:
        return Pattern(text)
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"unknown pattern {text!r}: expected {UNSTRUCTURED}, N:M such as 2:4 (2 of every 4 "
            "stay), or blocks of outputs x inputs such as 16x1"
        )
    a, b = int(match[1]), int(match[3])
    if match[2] == "x":
        return Pattern(text, block=(a, b))
    if a >= b:
        raise ValueError(f"of the pattern {text!r} nothing would be zero: N must be below M")
    return Pattern(text, keep=(a, b))


def select(score: Tensor, pattern: Pattern, sparsity: float, *, by_row: bool = False) -> Tensor:
    """The mask of what stays, bool [out, in]: what scores highest as far as the pattern allows.

    Args:
        score: float [out, in] >= 0.
        pattern: which zeros go together.
        sparsity: share of zeros; an N:M pattern has its own.
        by_row: the share holds in every row, not only over the matrix.
    """
    if pattern.keep is not None:
        return _of_groups(score, *pattern.keep)
    if pattern.block == (1, 1):
        return _highest(score, sparsity, by_row)
    (out, width), (rows, columns) = score.shape, pattern.block
    blocks = _pooled(score, rows, columns)
    chosen = _highest(blocks, sparsity, by_row)
    return chosen.repeat_interleave(rows, 0)[:out].repeat_interleave(columns, 1)[:, :width]


def zeros_of(pattern: Pattern, sparsity: float, width: int) -> float:
    """The share of zeros that `select` gives rows of `width` weights, but for rounding."""
    if pattern.keep is None:
        return sparsity
    keep, group = pattern.keep
    kept = width // group * keep + _tail(width % group, keep, group)
    return 1 - kept / width


def stored_bits(shape: tuple[int, int], pattern: Pattern) -> int:
    """What `pack` stores for a matrix of this shape, in bits."""
    out, width = shape
    if pattern.block != (1, 1):
        rows, columns = pattern.block
        return 8 * bitpack.packed_bytes(-(-out // rows) * -(-width // columns), 1)
    numbered = _numbered(pattern, width)
    if numbered is None:
        return 8 * bitpack.packed_bytes(out * width, 1)
    count = out * width // numbered[1]
    return 8 * sum(bitpack.packed_bytes(count, bits) for bits in _halves(comb(*numbered[::-1])))


def pack(mask: Tensor, pattern: Pattern) -> tuple[dict[str, Any], Tensor]:
    """(meta, uint8 tensor) of a mask [out, in] that `select` made."""
    meta = {"pattern": pattern.text, "kept": int(mask.sum())}
    if pattern.block != (1, 1):
        rows, columns = pattern.block
        return meta, bitpack.pack(mask[::rows, ::columns].to(torch.uint8), 1)
    numbered = _numbered(pattern, mask.shape[1])
    if numbered is None:
        return meta, bitpack.pack(mask.to(torch.uint8), 1)
    keep, group = numbered
    weight = 2 ** torch.arange(group, dtype=torch.int64)
    words = (mask.reshape(-1, group).to(torch.int64) * weight).sum(1)
    number = _numbers(keep, group)[words]
    parts, shift = [], 0
    for bits in _halves(comb(group, keep)):
        parts.append(bitpack.pack((number >> shift) & (2**bits - 1), bits))
        shift += bits
    return meta, torch.cat(parts)


def unpack(meta: Mapping[str, Any], stored: Tensor, shape: tuple[int, int]) -> Tensor:
    """The mask, bool [out, in], of what `pack` gave."""
    pattern, (out, width) = parse(meta["pattern"]), shape
    if pattern.block != (1, 1):
        rows, columns = pattern.block
        small = (-(-out // rows), -(-width // columns))
        blocks = bitpack.unpack(stored, 1, small[0] * small[1]).view(small)
        whole = blocks.repeat_interleave(rows, 0)[:out].repeat_interleave(columns, 1)
        return whole[:, :width].to(torch.bool)
    numbered = _numbered(pattern, width)
    if numbered is None:
        return bitpack.unpack(stored, 1, out * width).view(out, width).to(torch.bool)
    keep, group = numbered
    count, at, shift = out * width // group, 0, 0
    number = torch.zeros(count, dtype=torch.int64, device=stored.device)
    for bits in _halves(comb(group, keep)):
        size = bitpack.packed_bytes(count, bits)
        part = bitpack.unpack(stored[at : at + size], bits, count)
        number |= part.to(torch.int64) << shift
        at, shift = at + size, shift + bits
    return _masks(keep, group).to(stored.device)[number].view(out, width)


def _highest(score: Tensor, sparsity: float, by_row: bool) -> Tensor:
    """All but the lowest share; of equal scores those that come first stay."""
    flat = score if by_row else score.reshape(1, -1)
    zeros = round(sparsity * flat.shape[1])
    if not zeros:
        return torch.ones_like(score, dtype=torch.bool)
    edge = _smallest(flat, zeros)
    mask = flat > edge
    spare = flat.shape[1] - zeros - mask.sum(1, keepdim=True)
    if spare.any():  # more than one weight lies on the edge
        tied = (flat == edge).to(torch.int32)
        mask |= (tied > 0) & (tied.cumsum(1) <= spare)
    return mask.view(score.shape)


def _smallest(rows: Tensor, place: int) -> Tensor:
    """The `place`-th smallest of each row (the first is 1), [rows, 1]."""
    if rows.device.type != "cpu":
        return rows.kthvalue(place, 1).values[:, None]
    # numpy partitions a row of 200,000 ten times as fast
    ordered = np.partition(rows.numpy(), place - 1, axis=1)
    return torch.from_numpy(ordered[:, place - 1 : place].copy())


def _of_groups(score: Tensor, keep: int, group: int) -> Tensor:
    out, width = score.shape
    whole = width // group * group
    mask = torch.empty(out, width, dtype=torch.bool, device=score.device)
    rows = max(1, _PIECE // max(1, width))
    for part, chosen in zip(torch.split(score, rows), torch.split(mask, rows), strict=True):
        best = _best(part[:, :whole].reshape(-1, group), keep)
        chosen[:, :whole] = best.view(len(part), whole)
        if whole < width:
            chosen[:, whole:] = _best(part[:, whole:], _tail(width - whole, keep, group))
    return mask


def _best(score: Tensor, keep: int) -> Tensor:
    """The `keep` highest of each row; of equal ones the first."""
    columns = score.T.contiguous()  # compared pair by pair: far faster than sorting short rows
    ahead = torch.zeros(columns.shape, dtype=torch.int16, device=score.device)
    for i, j in combinations(range(len(columns)), 2):
        later = columns[j] > columns[i]
        ahead[i] += later
        ahead[j] += ~later
    return (ahead < keep).T.contiguous()


def _tail(left: int, keep: int, group: int) -> int:
    """What stays of a last group that is shorter."""
    return ceil(left * keep / group)


def _pooled(score: Tensor, rows: int, columns: int) -> Tensor:
    """Sums over blocks; those at the edges are scaled up to the size of a whole one."""
    out, width = score.shape
    padded = torch.nn.functional.pad(score, (0, -width % columns, 0, -out % rows))
    sums = padded.view(-(-out // rows), rows, -(-width // columns), columns).sum((1, 3))
    high = torch.full((sums.shape[0], 1), float(rows))
    wide = torch.full((1, sums.shape[1]), float(columns))
    high[-1] -= -out % rows
    wide[:, -1] -= -width % columns
    return sums / (high * wide)


def _numbered(pattern: Pattern, width: int) -> tuple[int, int] | None:
    """(N, M) where combinations are numbered; None where a mask is stored bit by bit."""
    if pattern.keep is None or pattern.keep[1] > _MOST_GROUP or width % pattern.keep[1]:
        return None
    return pattern.keep


def _halves(count: int) -> list[int]:
    """The bits of a number below `count`, in parts of at most 8."""
    bits = max(1, (count - 1).bit_length())
    return [min(8, bits - at) for at in range(0, bits, 8)]


@cache
def _masks(keep: int, group: int) -> Tensor:
    """bool [combinations, group], in order."""
    chosen = list(combinations(range(group), keep))
    mask = torch.zeros(len(chosen), group, dtype=torch.bool)
    return mask.scatter_(1, torch.tensor(chosen), True)


@cache
def _numbers(keep: int, group: int) -> Tensor:
    """The number of every mask, by the integer that its bits make; int64 [2^group]."""
    masks = _masks(keep, group)
    words = (masks.to(torch.int64) * 2 ** torch.arange(group)).sum(1)
    numbers = torch.zeros(2**group, dtype=torch.int64)
    numbers[words] = torch.arange(len(words))
    return numbers
