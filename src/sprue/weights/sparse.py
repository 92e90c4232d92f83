"""Zeros: mask, what stays and low-rank part found together, then what stays is coded.

`with_zeros` does it; `pruned_samples` foresees what it will do, on some of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprue.weights import lowrank, patterns, rates, sweep, zeros
from sprue.weights.beside import RANKS, as_stored, best_refit, sketch
from sprue.weights.choice import Choice
from sprue.weights.coding import (
    TINY,
    costs_at,
    factors_bits,
    lost_feedback,
    mask_bits,
    row_steps,
    side_bits,
    spread_over,
    trellis_part,
)
from sprue.weights.factor import inverse_factor
from sprue.weights.grids import masked, trellis
from sprue.weights.patterns import Pattern
from sprue.weights.problem import Problem, energy_of, single

_BESIDE_ZEROS = 4  # bits of factors beside a mask, where none are stated
_LEAST_CODE = 0.25  # bits of a weight that is not zero, below which there is nothing to predict
FEW = 256  # rows, at least, that zeros beside ranks are compared on


def with_zeros(
    p: Problem, choice: Choice, seed: int, threads: int, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The mask and the low-rank part, then the grid for what stays, then L once more."""
    pattern, bits = patterns.parse(choice.pattern or ""), choice.factor_bits or 8
    swept = choice.zeros == "sweep" and choice.feedback
    U = single(inverse_factor(p.H, p.ridge)) if swept or choice.rank != 0 else torch.eye(1)
    costs = _costs_of(p, choice, pattern) if choice.grid == "trellis" else None
    L, R, bits = _beside_zeros(p, U, costs, choice, seed)
    if swept:
        q = replace(p, W=p.W - as_stored(L, R, bits)) if len(R) else p
        meta, tensors = _swept(q, U, choice, pattern, dtype)
    else:
        if not len(R):
            U = torch.eye(1)  # as large as H, and of no more use
        pruned, L, R = _pruned(p, U, choice, pattern, (L, R, bits), seed)
        del U
        q = replace(p, W=pruned.V, mask=pruned.mask)
        if costs is not None:
            budget = choice.bits - factors_bits(p.W.shape, len(R), bits)
            meta, tensors = trellis_part(q, costs, choice, budget, threads)
        else:
            meta, tensors = _masked_part(q, choice, pattern, dtype)
    return best_refit(p, meta, tensors, L, R, bits, choice.refits) if len(R) else (meta, tensors)


def _costs_of(p: Problem, choice: Choice, pattern: Pattern) -> rates.Spread:
    """What errors cost beside the zeros that a choice makes; of no variances yet."""
    return costs_at(p, 1 - patterns.zeros_of(pattern, choice.sparsity, p.W.shape[1]))


def _quarter(p: Problem, choice: Choice) -> float:
    """The share that a choice keeps, to a quarter."""
    pattern = patterns.parse(choice.pattern or "")
    return round(4 * (1 - patterns.zeros_of(pattern, choice.sparsity, p.W.shape[1]))) / 4


def _pruned(
    p: Problem,
    U: Tensor,
    choice: Choice,
    pattern: Pattern,
    beside: tuple[Tensor, Tensor, int],
    seed: int,
) -> tuple[zeros.Pruned, Tensor, Tensor]:
    """What stays, and the factors (L, R) beside it, which follow the mask."""
    L, R, bits = beside
    task = _task(p, pattern, choice.sparsity)
    if not choice.feedback:
        return zeros.by_score(replace(task, W=p.W - as_stored(L, R, bits))), L, R
    if not len(R):
        return zeros.jointly(task, choice.mask_steps)[0], L, R
    factors_: list[tuple[Tensor, Tensor]] = []

    def fit(D: Tensor) -> Tensor:
        factors_.append(lowrank.whitened(D, U, len(R), seed, task.importance))
        return as_stored(*factors_[-1], bits)

    pruned, _ = zeros.jointly(task, choice.mask_steps, fit)
    return pruned, *factors_[-1]


def _task(p: Problem, pattern: Pattern, sparsity: float) -> zeros.Task:
    importance = torch.from_numpy(p.importance).to(torch.float32)
    return zeros.Task(p.W, p.H, importance, p.ridge, pattern, sparsity)


def _swept(
    p: Problem, U: Tensor, choice: Choice, pattern: Pattern, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Zeros and what stays beside them, chosen by the sweep as it goes."""
    importance = torch.from_numpy(p.importance).to(torch.float32)
    chosen = sweep.Zeros(pattern, choice.sparsity, importance)
    if choice.grid == "raw":
        V, mask = sweep.on_values(p.W, U, chosen)
        return masked.pack_values(V, mask, pattern, dtype)
    return _integers_part(p, U, choice, pattern, chosen)


def _masked_part(
    p: Problem, choice: Choice, pattern: Pattern, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What stays (p.W under p.mask), as floats or integers."""
    assert p.mask is not None
    if choice.grid == "raw":
        return masked.pack_values(p.W, p.mask, pattern, dtype)
    U = torch.eye(p.W.shape[1])
    if choice.feedback:
        kept = p.mask.to(torch.float64).mean(0).numpy()
        U = single(inverse_factor(p.H, p.ridge + lost_feedback(p, kept)))
    return _integers_part(p, U, choice, pattern, p.mask)


def _integers_part(
    p: Problem, U: Tensor, choice: Choice, pattern: Pattern, mask: Tensor | sweep.Zeros
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Integers where a mask, given or chosen on the way, is not zero."""
    grid = (int(choice.bits), choice.group_size, choice.symmetric)
    *coded, found = sweep.on_integers(p.W, U, *grid, p.H.diagonal(), mask)
    assert found is not None
    codes, scale, zero = coded
    return masked.pack_codes(
        *((codes, scale, zero), found, pattern),
        bits=grid[0],
        group_size=choice.group_size,
        symmetric=choice.symmetric,
    )


def _beside_zeros(
    p: Problem, U: Tensor, costs: rates.Spread | None, choice: Choice, seed: int
) -> tuple[Tensor, Tensor, int]:
    """(L, R, bits of their codes) to begin with, of the stated rank or of that which pays best.

    Ranks are compared on a sample of rows: what a mask breaks beside each, and what coding what
    stays costs then.
    """
    none = torch.zeros(len(p.W), 0), torch.zeros(0, p.W.shape[1])
    if choice.rank == 0:
        return *none, choice.factor_bits or 8
    width = choice.factor_bits or _BESIDE_ZEROS
    if choice.rank is not None or costs is None:
        return *sketch(p, U, min(choice.rank or 0, *p.W.shape), seed), width
    ranks = [r for r in RANKS if 4 * r <= min(p.W.shape)]
    if not ranks:
        return *none, width
    L, R = sketch(p, U, max(ranks), seed)
    best, found = float("inf"), 0
    for rank in (0, *ranks):
        (part,) = _samples(p, [costs], [choice], (L[:, :rank], R[:rank], width))
        code = choice.bits - side_bits(p.W.shape) - part.beside
        if code < _LEAST_CODE * part.kept:
            break
        rows = part.importance * np.exp2(2 * part.row / trellis.ROW_OCTAVE)
        coded = rates.damage(part.spread, rates.level_for(part.spread, code))
        evened = rates.unevenness(rows, np.array(code / part.kept))
        now = part.broken + float(rows.sum() * evened) * coded
        if now >= best:
            break
        best, found = now, rank
    return L[:, :found], R[:found], width


@dataclass(frozen=True)
class Sample:
    """Some rows of a matrix with zeros found for them.

    Attributes:
        importance: float64 [rows].
        row: int32 [rows], exponents of the row steps.
        spread: what decides the column rates.
        broken: weighted error that the zeros make.
        kept: share that is not zero.
        beside: bits a weight that the whole matrix' mask and factors take.
        times: what the whole matrix weighs over what these rows do.
    """

    importance: NDArray[np.float64]
    row: NDArray[np.int32]
    spread: rates.Spread
    broken: float
    kept: float
    beside: float
    times: float


def pruned_samples(p: Problem, menu: Sequence[Choice], seed: int) -> list[Sample]:
    """What zeros do beside factors of the stated ranks, found on some of the rows.

    Args:
        p: the whole matrix.
        menu: patterns, sparsities, ranks and bits of the factors.
        seed: of the sketch.
    """
    # a factorization each: between quarters of zeros, costs hardly differ
    near = {kept: costs_at(p, kept) for kept in {_quarter(p, choice) for choice in menu}}
    found: dict[Choice, Sample] = {}
    groups = _alike(menu)
    factors = _sketches(p, {rank for rank, _ in groups}, seed)
    for (rank, width), alike in groups.items():  # one sketch, and what H decides, once
        costs = [near[_quarter(p, choice)] for choice in alike]
        found |= zip(alike, _samples(p, costs, alike, (*factors[rank], width)), strict=True)
    return [found[choice] for choice in menu]


def _sketches(p: Problem, ranks: set[int], seed: int) -> dict[int, tuple[Tensor, Tensor]]:
    """The factors (L, R) of each rank."""
    found = {0: (torch.zeros(len(p.W), 0), torch.zeros(0, p.W.shape[1]))}
    if any(ranks):
        U = single(inverse_factor(p.H, p.ridge))
        found |= {r: sketch(p, U, min(r, *p.W.shape), seed) for r in sorted(ranks) if r}
    return found


def _alike(menu: Sequence[Choice]) -> dict[tuple[int, int], list[Choice]]:
    """(rank, bits of factors) -> the choices that have them."""
    found: dict[tuple[int, int], list[Choice]] = {}
    for choice in menu:
        key = choice.rank or 0, choice.factor_bits or _BESIDE_ZEROS
        found.setdefault(key, []).append(choice)
    return found


def _samples(
    p: Problem,
    costs: Sequence[rates.Spread],
    menu: Sequence[Choice],
    beside: tuple[Tensor, Tensor, int],
) -> list[Sample]:
    """For each of the choices, which differ in their zeros alone, with what errors cost beside."""
    L, R, width = beside
    some = slice(None, None, max(1, len(p.W) // FEW))
    W, g = p.W[some] - as_stored(L[some], R, width), p.importance[some]
    seen = replace(p, W=W, importance=g)
    tasks = [_task(seen, patterns.parse(c.pattern or ""), c.sparsity) for c in menu]
    whole = energy_of(p.W, p.H, p.importance)
    times = whole / max(energy_of(p.W[some], p.H, g), TINY) if whole else 1.0
    taken = factors_bits(p.W.shape, len(R), width)
    pruned = zeros.each(tasks, menu[0].mask_steps)
    return [
        _sample(seen, cost, task, found, (len(p.W), p.W.shape[1]), taken, times)
        for cost, task, found in zip(costs, tasks, pruned, strict=True)
    ]


def _sample(
    p: Problem,
    costs: rates.Spread,
    task: zeros.Task,
    pruned: zeros.Pruned,
    shape: tuple[int, int],
    taken: float,
    times: float,
) -> Sample:
    """Of some rows p, with the shape of the whole matrix and the bits that its factors take."""
    q = replace(p, W=pruned.V, mask=pruned.mask)
    row = row_steps(q.W, q.mask)
    return Sample(
        p.importance,
        row,
        spread_over(q, costs, row),
        energy_of(p.W - pruned.V, p.H, p.importance),
        1 - patterns.zeros_of(task.pattern, task.sparsity, shape[1]),
        mask_bits(shape, task.pattern) + taken,
        times,
    )
