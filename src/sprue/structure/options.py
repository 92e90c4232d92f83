"""What techniques do to one matrix: the change of its weights, and what that saves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sprue.structure import findings
from sprue.structure.redundancy import Removal, Spectrum, rounded, saving_rank
from sprue.weights import patterns

_FLOAT = 4  # bytes
_GROUP = 64  # weights of a row that share a scale in 4 bits
_SCALES = {8: 4, 4: 2}  # bytes of one: float32 for a row, float16 for a group
_PLACE = 2 / 8  # bytes that say where one of two kept of four weights stood
_PATTERN = patterns.parse("2:4")


@dataclass(frozen=True)
class Change:
    """What a technique does.

    Attributes:
        technique: one of `findings.TECHNIQUES`.
        D: float32 [out, in], what is added to W.
        nbytes: saved of the weights in float32; below 0 where the result is larger.
        kept: share of the multiplications that stays.
    """

    technique: str
    D: Tensor = field(repr=False)
    nbytes: float
    kept: float


def parts(width: int) -> tuple[int, int]:
    """A quarter and a half of so many inputs; at least one, and never all."""
    quarter, half = (min(max(1, round(width * q)), width - 1) for q in (0.25, 0.5))
    return quarter, half


def grids(W: Tensor) -> Iterator[Change]:
    """Weights rounded to 8 bits for each row, and to 4 bits for each group of neighbors in it."""
    for technique, bits, group in ((findings.INT8, 8, None), (findings.INT4, 4, _GROUP)):
        count = len(W) * (1 if group is None else -(-W.shape[1] // group))
        stored = W.numel() * bits / 8 + count * _SCALES[bits]
        yield Change(technique, rounded(W, bits, group) - W, _FLOAT * W.numel() - stored, 1.0)


def two_of_four(W: Tensor, mean: Tensor, under: int) -> Change:
    """Two of every four input channels next to one another stay, at each place of the kernel.

    By |w| rms(x), as Wanda does (Sun et al. 2023, section 3).

    Args:
        W: float32 [out, in].
        mean: float32 [in], mean squares of the inputs.
        under: columns of an input channel, next to one another.
    """
    order = torch.arange(W.shape[1]).view(-1, under).T.flatten()  # channels next to one another
    score = (W.abs() * mean.clamp(min=0).sqrt())[:, order]
    stays = torch.empty(W.shape, dtype=torch.bool)
    stays[:, order] = patterns.select(score, _PATTERN, 0.5)
    saved = W.numel() * (_FLOAT - (_FLOAT + _PLACE) / 2)
    return Change(findings.SPARSE, torch.where(stays, 0.0, -W), saved, 0.5)


def half_rank(W: Tensor, found: Spectrum) -> Iterator[Change]:
    """Two factors with half of the numbers; none where that leaves no direction."""
    out, width = W.shape
    rank = (out * width) // (2 * (out + width))
    if 1 <= rank <= saving_rank(out, width):
        kept = rank * (out + width)
        D = found.project(W, rank) - W
        yield Change(findings.RANK, D, _FLOAT * (W.numel() - kept), kept / W.numel())


def fewer_inputs(W: Tensor, found: Removal, inputs: int) -> Iterator[Change]:
    """A quarter and a half of the input channels gone, the rest refitted."""
    for technique, gone in zip((findings.QUARTER, findings.HALF), parts(inputs), strict=True):
        if gone in found.refits:
            share = gone / inputs
            D = found.refits[gone] - W
            yield Change(technique, D, _FLOAT * W.numel() * share, 1 - share)


def spare(
    W: Tensor, found: Spectrum, rank: int, removal: Removal | None, inputs: int
) -> Iterator[Change]:
    """Inputs or directions gone within the error, whichever saves more; none where none can."""
    by_rank = W.numel() - rank * sum(W.shape)
    by_inputs = 0.0 if removal is None else W.numel() * removal.spare / inputs
    saved = max(by_inputs, by_rank)
    if saved > 0:
        by = removal if by_inputs >= by_rank else None
        V = found.project(W, rank) if by is None else by.refits[by.spare]
        yield Change(findings.SPARE, V - W, _FLOAT * saved, 1 - saved / W.numel())


def without_dead(W: Tensor, connections: Tensor) -> Iterator[Change]:
    """Zeros for what is dead, kept as a mask and the values of the rest; none where none is."""
    count = int(connections.sum())
    if count:
        saved = _FLOAT * count - W.numel() / 8
        D = torch.where(connections, -W, 0.0)
        yield Change(findings.DEAD, D, saved, 1 - count / W.numel())
