"""A matrix, or what a mask keeps of it, on a trellis: rates by column, steps by row, feedback.

Rates and feedback follow `rates`: what errors cost decides how many bits each column gets, and H is
tempered where feedback would chase what matters less than the errors already made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprue.weights import factors, patterns, rates, sweep
from sprue.weights.choice import Choice
from sprue.weights.factor import Factor, inverse_factor
from sprue.weights.grids import trellis
from sprue.weights.patterns import Pattern
from sprue.weights.problem import Problem, in_parts

# Share of the water level, over a column's variance, that is added to H. With it the feedback stops
# chasing directions that matter less than the errors already made there (see `_tempered`).
_TEMPER = 0.5
_COLUMN_FIELD, _RATE_FIELD, _ROW_FIELD = 6, 6, 4  # bits of small integers not known yet
# What error feedback moves into a weight that is zero is lost there. Feedback that foresees it, for
# zeros drawn at random, is that of H with more on its diagonal, in proportion to the zeros and to
# the diagonal itself (dropout is such a ridge: Wager et al. 2013). Masks are not quite random: of
# 0 to 1, 0.1 to 0.3 of the diagonal left the least error on steep spectra, and cost flat ones none.
_LOST = 0.3
TINY = 1e-38  # the least normal float32


def mask_bits(shape: tuple[int, int], pattern: Pattern | None) -> float:
    """Bits a weight that a mask of this pattern takes."""
    return patterns.stored_bits(shape, pattern) / (shape[0] * shape[1]) if pattern else 0.0


def factors_bits(shape: torch.Size | tuple[int, int], rank: int, bits: int) -> float:
    """Bits a weight that factors of this rank take."""
    out, width = shape
    return factors.stored_bits((out, width), rank, bits) / (out * width)


def side_bits(shape: torch.Size | tuple[int, int], row_field: int = _ROW_FIELD) -> float:
    """Bits a weight that a trellis takes beside its codes: steps, rates, lead and tail."""
    out, width = shape
    parts = trellis.segments(out)
    fields = width * (_RATE_FIELD + _COLUMN_FIELD * parts) + out * row_field
    joints = 16 * (parts - 1)
    return (fields + joints + 8 * (trellis.LEAD + trellis.TAIL + 4)) / (out * width)


def row_steps(W: Tensor, mask: Tensor | None = None) -> NDArray[np.int32]:
    """Exponents, in 1/4 octaves, of the root mean square of each row of W once columns are even.

    Only what a mask keeps counts.
    """
    high, wide = (float(W.shape[0]), float(W.shape[1]))
    in_column = torch.tensor(high) if mask is None else mask.sum(0).clamp(min=1).to(W.dtype)
    in_row = torch.tensor(wide) if mask is None else mask.sum(1).clamp(min=1).to(W.dtype)
    columns = torch.zeros(W.shape[1])
    for part in in_parts(W):
        columns += part.square().sum(0)
    columns = (columns / in_column).clamp(min=float(columns.mean()) / len(W) * 1e-6 + TINY)
    rows = torch.cat([part.square() @ (1 / columns) for part in in_parts(W)])
    rows = (rows / in_row).sqrt().clamp(min=1e-4)
    exponent = torch.round(torch.log2(rows) * trellis.ROW_OCTAVE)
    return exponent.to(torch.int32).numpy()


def spread_of(W: Tensor, U: Factor, row: NDArray[np.int32]) -> rates.Spread:
    """What decides the column rates of W, its rows divided by their steps."""
    return rates.spread(_variances(W, row), U)


def spread_over(p: Problem, costs: rates.Spread, row: NDArray[np.int32]) -> rates.Spread:
    """`costs` with the variance of each column of p.W, and the share of it that is not zero."""
    s = replace(costs, variance=_variances(p.W, row, p.mask))
    if p.mask is None:
        return s
    share = p.mask.sum(0).to(torch.float64).numpy() / len(p.W)
    return replace(s, share=np.maximum(share, 1 / len(p.W)))


def _variances(
    W: Tensor, row: NDArray[np.int32], mask: Tensor | None = None
) -> NDArray[np.float64]:
    """Mean square of each column of W (of what a mask keeps), its rows divided by their steps.

    None is 0.
    """
    count = torch.tensor(float(len(W))) if mask is None else mask.sum(0).clamp(min=1)
    weight = torch.from_numpy(np.exp2(-2 * row / trellis.ROW_OCTAVE)).to(torch.float32)
    pairs = zip(in_parts(weight), in_parts(W), strict=True)
    variance = (sum((w @ part.square() for w, part in pairs), torch.zeros(())) / count).numpy()
    variance = variance.astype(np.float64)
    return np.asarray(np.maximum(variance, variance.mean() * 1e-9 + TINY**2))


def trellis_part(
    p: Problem, costs: rates.Spread, choice: Choice, bits: float, threads: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """p.W on a trellis of at most `bits` a weight, everything stored counted."""
    row = row_steps(p.W, p.mask)
    return _coded(p, spread_over(p, costs, row), row, choice, bits, threads)


def _coded(
    p: Problem,
    s: rates.Spread,
    row: NDArray[np.int32],
    choice: Choice,
    bits: float,
    threads: int,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The trellis of at most `bits` a weight, everything stored counted."""
    side = side_bits(p.W.shape, int(row.max() - row.min()).bit_length())
    if p.mask is not None:
        side += mask_bits((len(p.W), p.W.shape[1]), patterns.parse(choice.pattern or ""))
    code_bits = bits - side
    while code_bits > 0:
        meta, tensors = _coded_at(p, s, row, choice, code_bits, threads)
        over = sum(8 * t.nbytes for t in tensors.values()) - bits * p.W.numel()
        if over <= 0:
            return meta, tensors
        code_bits -= (over + 8) / p.W.numel()  # column steps lie further apart than assumed
    raise ValueError(
        f"{bits:.3f} bits a weight do not even hold the steps and rates of a matrix of shape "
        f"{list(p.W.shape)}, which take {side:.3f}: give it more"
    )


def _coded_at(
    p: Problem,
    s: rates.Spread,
    row: NDArray[np.int32],
    choice: Choice,
    bits: float,
    threads: int,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The trellis whose codes take `bits` a weight."""
    if choice.feedback:
        exact = _tempered(p, s, bits)
        s = replace(rates.spread(s.variance, exact), share=s.share)
        U = np.asarray(exact, np.float32)
        del exact
    else:
        U = np.eye(len(s.cost), dtype=np.float32)
        cost = p.H.diagonal().to(torch.float64).numpy() + p.ridge
        s = rates.Spread(s.variance, cost, np.zeros(len(cost)), s.share)
    rate, _ = rates.allocate(s, bits)
    if not p.W.any():
        rate = np.full_like(rate, -1)
    coded = sweep.along_trellis(
        p.W, U, rate, row, p.importance, choice.state_bits, threads, mask=p.mask
    )
    shape = (p.W.shape[0], p.W.shape[1])
    zero = None if p.mask is None else (p.mask, patterns.parse(choice.pattern or ""))
    return trellis.pack(shape, coded.streams, rate, coded.column, row, choice.state_bits, zero)


def _tempered(p: Problem, s: rates.Spread, bits: float) -> Factor:
    """The feedback factor for a rate: H plus a share of the water level over the variances.

    At high rates the errors that LDLQ makes have the covariance λ H^-1. Where that exceeds the
    weights' own variance v, the rate-distortion optimum (λ^-1 H + v^-1)^-1 does not follow it: the
    second term is what is added here.
    """
    ridge = p.ridge + _TEMPER * rates.level_for(s, bits) / s.variance
    if p.mask is not None:
        ridge += lost_feedback(p, s.share)
    return inverse_factor(p.H, ridge)


def costs_at(p: Problem, kept: float) -> rates.Spread:
    return rates.spread(np.ones(len(p.H)), inverse_factor(p.H, p.ridge + lost_feedback(p, kept)))


def lost_feedback(p: Problem, kept: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """What is added to H's diagonal where columns are zero but for this share; float64 [in]."""
    return _LOST * (1 - kept) * (p.H.diagonal().to(torch.float64).numpy() + p.ridge)


def predicted_damage(p: Problem, costs: rates.Spread, W: Tensor, code_bits: float) -> float:
    """Predicted weighted error of coding W at these bits; infinite where there are none."""
    if code_bits <= 0:
        return float("inf")
    row = row_steps(W, p.mask)
    s = spread_over(replace(p, W=W), costs, row)
    rows = p.importance * np.exp2(2 * row / trellis.ROW_OCTAVE)
    evened = float(rows.mean() * rates.unevenness(rows, np.array(code_bits)))
    return evened * rates.damage(s, rates.level_for(s, code_bits))
