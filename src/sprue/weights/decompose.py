"""The one solver inside a matrix: W -> mask * Q + L R under a choice.

    min tr(G (W - W^) H (W - W^)^T),   W^ = mask * Q + L R,   stored bits <= budget

with H the second moment of the inputs and G the (diagonal) importance of the outputs. Low rank
first, then the residual with error feedback, then one refit of L. Where weights are to be zero, the
mask, what stays and the low-rank part are found together first, and error feedback then codes what
stays. Every known method is a corner: round to nearest (no feedback), GPTQ (no rank), SparseGPT and
Wanda (16-bit Q), a whitened SVD (no Q), CALDERA (no mask), SLiM (all of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprue.weights import factors, lowrank, patterns, rates, sweep, zeros
from sprue.weights.choice import Choice
from sprue.weights.factor import Factor, finite, inverse_factor, ridge_of
from sprue.weights.grids import integer, masked, raw, trellis
from sprue.weights.packed import Packed, dense, rows
from sprue.weights.patterns import Pattern
from sprue.weights.rotate import rotate

RANKS = (4, 8, 16, 32, 64, 128)
FACTOR_BITS = (3, 4, 8)
# Share of the water level, over a column's variance, that is added to H. With it the feedback stops
# chasing directions that matter less than the errors already made there (see `_tempered`).
_TEMPER = 0.5
_COLUMN_FIELD, _RATE_FIELD, _ROW_FIELD = 6, 6, 4  # bits of small integers not known yet
# What error feedback moves into a weight that is zero is lost there. Feedback that foresees it, for
# zeros drawn at random, is that of H with more on its diagonal, in proportion to the zeros and to
# the diagonal itself (dropout is such a ridge: Wager et al. 2013). Masks are not quite random: of
# 0 to 1, 0.1 to 0.3 of the diagonal left the least error on steep spectra, and cost flat ones none.
_LOST = 0.3
_TINY = 1e-38  # the least normal float32
_LARGEST = 1e15  # squares of weights must stay within float32
_ROWS = 2048  # worked on at once: copies of all of an embedding would take much memory
_LONG = 1 << 14  # more rows than a linear of a block has, nearly always: an embedding or a head
_SAMPLE = 512  # rows, at least, that ranks are compared on
_BESIDE_ZEROS = 4  # bits of factors beside a mask, where none are stated
_LEAST_CODE = 0.25  # bits of a weight that is not zero, below which there is nothing to predict
_FEW = 256  # rows, at least, that zeros beside ranks are compared on


@dataclass(frozen=True)
class Problem:
    """One matrix and what decides its error.

    Attributes:
        W: float32 [out, in].
        H: float32 [in, in].
        importance: float64 [out] > 0, mean 1; the diagonal of G.
        ridge: added to the diagonal of H.
        mask: bool [out, in], what Q may hold beside zeros; None: all.
    """

    W: Tensor
    H: Tensor
    importance: NDArray[np.float64]
    ridge: float
    mask: Tensor | None = None


def decompose(
    W: Tensor,
    H: Tensor,
    choice: Choice,
    seed: int = 0,
    importance: Tensor | None = None,
    threads: int = 1,
) -> Packed:
    """W as it is to be stored.

    Args:
        W: floating [out, in]; not changed.
        H: second moment of the inputs, [in, in], any positive multiple.
        choice: how.
        seed: of rotations and sketches.
        importance: what a squared error of each output counts, [out] >= 0; None: all alike.
        threads: segments of rows coded at the same time; does not change the result.

    Returns:
        The packed matrix; `error` is tr(D H D^T) / tr(W H W^T).

    Raises:
        ValueError: wrong shapes, NaN or infinity in W or H, an H that is no second moment, too few
            bits for what must be stored.
    """
    problem = _checked(W, H, importance, choice.damping)
    if choice.grid == "raw" and choice.pattern is None:
        meta, tensors = raw.pack(problem.W if W.dtype == torch.float64 else W)
    else:
        dtype = torch.float32 if W.dtype == torch.float64 else W.dtype
        meta, tensors = _solve(problem, choice, seed, threads, dtype)
    error = _stored_error(problem.W, problem.H, meta, tensors)
    return Packed((W.shape[0], W.shape[1]), meta, tensors, error)


def _stored_error(W: Tensor, H: Tensor, meta: dict[str, Any], tensors: dict[str, Tensor]) -> float:
    """`relative_error` of what is stored; of an embedding, only some rows are dense at a time."""
    if len(W) <= _LONG or "out" in meta.get("rotate", {}):
        return relative_error(W, dense(meta, tensors), H)
    error = norm = 0.0
    for ids, part in zip(_parted(torch.arange(len(W))), _parted(W), strict=True):
        error += _weighted(part - rows(meta, tensors, ids), H)
        norm += _weighted(part, H)
    return _ratio(error, norm)


def relative_error(W: Tensor, approximation: Tensor, H: Tensor) -> float:
    """tr(D H D^T) / tr(W H W^T) with D = W - W^; 0 where both are 0."""
    parts = list(zip(_parted(W), _parted(approximation), strict=True))
    error = sum(_weighted(a - b, H) for a, b in parts)
    norm = sum(_weighted(a, H) for a, _ in parts)
    return _ratio(error, norm)


def _ratio(error: float, norm: float) -> float:
    return error / norm if norm > 0 else float(error > 0)


def _parted(x: Tensor, rows: int = _ROWS) -> list[Tensor]:
    return [x[a : a + rows] for a in range(0, len(x), rows)]


def _weighted(D: Tensor, H: Tensor) -> float:
    return float(((D @ H) * D).sum(dtype=torch.float64))


def _checked(W: Tensor, H: Tensor, importance: Tensor | None, damping: float) -> Problem:
    W, H = W.detach(), H.detach()
    if W.ndim != 2 or 0 in W.shape:
        raise ValueError(f"expected a matrix [out, in], received {list(W.shape)}")
    if H.shape != (W.shape[1], W.shape[1]):
        raise ValueError(f"expected H [{W.shape[1]}, {W.shape[1]}], received {list(H.shape)}")
    if not finite(W):
        raise ValueError("the weights hold NaN or infinity")
    if not finite(H):
        raise ValueError("the second moment of the inputs holds NaN or infinity")
    largest = max(abs(float(end)) for end in torch.aminmax(W))
    if largest > _LARGEST:
        raise ValueError(f"the weights reach {largest:.3g}: expected at most {_LARGEST:g}")
    H = H.to(torch.float32)
    if not _symmetric(H):
        raise ValueError("the second moment of the inputs is not symmetric")
    W = W.to(torch.float32)
    return Problem(W, H, normalized(len(W), importance), ridge_of(H, damping))


def _symmetric(H: Tensor) -> bool:
    """Whether H equals its transpose but for rounding, compared in parts: H may be large."""
    tolerance = 1e-3 * float(H.diagonal().abs().max())
    parts = zip(_parted(H, 256), _parted(H.T, 256), strict=True)
    return all(float((a - b).abs().max()) <= tolerance for a, b in parts)


def normalized(count: int, given: Tensor | None) -> NDArray[np.float64]:
    """Importances [count] over their mean, none near 0; None: all 1.

    Raises:
        ValueError: wrong length, negative, NaN or infinite.
    """
    if given is None:
        return np.ones(count)
    if given.shape != (count,):
        raise ValueError(f"expected {count} importances, received {list(given.shape)}")
    g = given.detach().cpu().to(torch.float64).numpy()
    if not np.isfinite(g).all() or g.min() < 0:
        raise ValueError("importances must be finite and not negative")
    # rows that hardly counted in the calibration text may count in another
    return np.maximum(g / g.mean(), 0.02) if g.any() else np.ones(count)


def _solve(
    p: Problem, choice: Choice, seed: int, threads: int, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if choice.pattern is not None:
        return _with_zeros(p, choice, seed, threads, dtype)
    if choice.grid == "none":
        return _factors_alone(p, choice, seed)
    if choice.grid == "trellis":
        return _on_trellis(p, choice, seed, threads)
    return _on_integers(p, choice, seed)


def _with_zeros(
    p: Problem, choice: Choice, seed: int, threads: int, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The mask and the low-rank part, then the grid for what stays, then L once more."""
    pattern, bits = patterns.parse(choice.pattern or ""), choice.factor_bits or 8
    U = inverse_factor(p.H, p.ridge) if choice.feedback or choice.rank != 0 else np.eye(1)
    costs = _costs_of(p, choice, pattern) if choice.grid == "trellis" else None
    L, R, bits = _beside_zeros(p, single(U), costs, choice, seed)
    if choice.zeros == "sweep" and choice.feedback:
        q = replace(p, W=p.W - _stored(L, R, bits)) if len(R) else p
        meta, tensors = _swept(q, single(U), choice, pattern, dtype)
    else:
        pruned, L, R = _pruned(p, single(U), choice, pattern, (L, R, bits), seed)
        q = replace(p, W=pruned.V, mask=pruned.mask)
        if costs is not None:
            budget = choice.bits - factors_bits(p.W.shape, len(R), bits)
            meta, tensors = _trellis_part(q, costs, choice, budget, threads)
        else:
            meta, tensors = _masked_part(q, choice, pattern, dtype)
    return _best_refit(p, meta, tensors, L, R, bits, choice.refits) if len(R) else (meta, tensors)


def _costs_of(p: Problem, choice: Choice, pattern: Pattern) -> rates.Spread:
    """What errors cost beside the zeros that a choice makes; of no variances yet."""
    return _costs_at(p, 1 - patterns.zeros_of(pattern, choice.sparsity, p.W.shape[1]))


def _costs_at(p: Problem, kept: float) -> rates.Spread:
    return rates.spread(np.ones(len(p.H)), inverse_factor(p.H, p.ridge + _lost(p, kept)))


def _quarter(p: Problem, choice: Choice) -> float:
    """The share that a choice keeps, to a quarter."""
    pattern = patterns.parse(choice.pattern or "")
    return round(4 * (1 - patterns.zeros_of(pattern, choice.sparsity, p.W.shape[1]))) / 4


def _lost(p: Problem, kept: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """What is added to H's diagonal where columns are zero but for this share; float64 [in]."""
    return _LOST * (1 - kept) * (p.H.diagonal().to(torch.float64).numpy() + p.ridge)


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
        return zeros.by_score(replace(task, W=p.W - _stored(L, R, bits))), L, R
    if not len(R):
        return zeros.jointly(task, choice.mask_steps)[0], L, R
    factors_: list[tuple[Tensor, Tensor]] = []

    def fit(D: Tensor) -> Tensor:
        factors_.append(lowrank.whitened(D, U, len(R), seed, task.importance))
        return _stored(*factors_[-1], bits)

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
        U = single(inverse_factor(p.H, p.ridge + _lost(p, kept)))
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
        return *_sketch(p, U, min(choice.rank or 0, *p.W.shape), seed), width
    ranks = [r for r in RANKS if 4 * r <= min(p.W.shape)]
    if not ranks:
        return *none, width
    L, R = _sketch(p, U, max(ranks), seed)
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


def pruned_samples(p: Problem, U: Tensor, menu: Sequence[Choice], seed: int) -> list[Sample]:
    """What zeros do beside factors of the stated ranks, found on some of the rows.

    Args:
        p: the whole matrix.
        U: float32 [in, in], its feedback factor.
        menu: patterns, sparsities, ranks and bits of the factors.
        seed: of the sketch.
    """
    # a factorization each: between quarters of zeros, costs hardly differ
    near = {kept: _costs_at(p, kept) for kept in {_quarter(p, choice) for choice in menu}}
    found: dict[Choice, Sample] = {}
    for (rank, width), alike in _alike(menu).items():  # one sketch, and what H decides, once
        L, R = torch.zeros(len(p.W), 0), torch.zeros(0, p.W.shape[1])
        if rank:
            L, R = _sketch(p, U, min(rank, *p.W.shape), seed)
        costs = [near[_quarter(p, choice)] for choice in alike]
        found |= zip(alike, _samples(p, costs, alike, (L, R, width)), strict=True)
    return [found[choice] for choice in menu]


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
    some = slice(None, None, max(1, len(p.W) // _FEW))
    W, g = p.W[some] - _stored(L[some], R, width), p.importance[some]
    seen = replace(p, W=W, importance=g)
    tasks = [_task(seen, patterns.parse(c.pattern or ""), c.sparsity) for c in menu]
    whole = _energy(p.W, p.H, p.importance)
    times = whole / max(_energy(p.W[some], p.H, g), _TINY) if whole else 1.0
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
        _spread_over(q, costs, row),
        _energy(p.W - pruned.V, p.H, p.importance),
        1 - patterns.zeros_of(task.pattern, task.sparsity, shape[1]),
        mask_bits(shape, task.pattern) + taken,
        times,
    )


def _energy(W: Tensor, H: Tensor, importance: NDArray[np.float64]) -> float:
    """tr(G W H W^T)."""
    rows = torch.cat([((part @ H) * part).sum(1).to(torch.float64) for part in _parted(W)])
    return float(rows @ torch.from_numpy(importance))


def _factors_alone(
    p: Problem, choice: Choice, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    meta: dict[str, Any] = {"grid": "none", "shape": list(p.W.shape)}
    U = single(inverse_factor(p.H, p.ridge))
    L, R = _sketch(p, U, min(choice.rank or 0, *p.W.shape), seed)
    return _best_refit(p, meta, {}, L, R, choice.factor_bits or 8, choice.refits)


def mask_bits(shape: tuple[int, int], pattern: Pattern | None) -> float:
    """Bits a weight that a mask of this pattern takes."""
    return patterns.stored_bits(shape, pattern) / (shape[0] * shape[1]) if pattern else 0.0


def _on_integers(p: Problem, choice: Choice, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    bits = int(choice.bits)
    rank = min(choice.rank or 0, *p.W.shape)
    U = inverse_factor(p.H, p.ridge) if rank or choice.feedback else None
    L, R = torch.zeros(len(p.W), 0), torch.zeros(0, p.W.shape[1])
    factor_bits = choice.factor_bits or 8
    if rank and U is not None:
        L, R = _sketch(p, single(U), rank, seed)
    residual = p.W - _stored(L, R, factor_bits) if len(R) else p.W
    turned, H, turn = _turned(residual, p.H, choice.rotate, seed)
    if turn and U is not None:
        U = inverse_factor(H, p.ridge)
    if choice.feedback and U is not None:
        codes, scale, zero, _ = sweep.on_integers(
            turned,
            single(U),
            bits,
            choice.group_size,
            choice.symmetric,
            H.diagonal(),
        )
        meta, tensors = integer.pack(
            codes, scale, zero, bits=bits, group_size=choice.group_size, symmetric=choice.symmetric
        )
    else:
        meta, tensors = integer.round_to_nearest(
            turned, bits, choice.group_size, choice.symmetric, None
        )
    meta = {**meta, **turn}
    if not rank:
        return meta, tensors
    return _best_refit(p, meta, tensors, L, R, factor_bits, choice.refits)


def _on_trellis(
    p: Problem, choice: Choice, seed: int, threads: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    U = inverse_factor(p.H, p.ridge)
    costs, U = rates.spread(np.ones(len(U)), U), np.asarray(U, np.float32)
    L, R, factor_bits = _low_rank(p, torch.from_numpy(U), costs, choice, seed)
    del U  # the factors of a wide layer are the most that is in memory
    residual = p.W - _stored(L, R, factor_bits) if len(R) else p.W
    turned, H, turn = _turned(residual, p.H, choice.rotate, seed)
    if turn:
        costs = rates.spread(np.ones(len(H)), inverse_factor(H, p.ridge))
    # rotated outputs are mixtures of all: they count alike
    importance = np.ones(len(p.W)) if choice.rotate == "both" else p.importance
    q = Problem(turned, H, importance, p.ridge)
    taken = factors_bits(p.W.shape, R.shape[0], factor_bits)
    budget = choice.bits - taken
    if budget <= 0:
        raise ValueError(
            f"factors of rank {len(R)} take {taken:.3f} bits a weight of a matrix of shape "
            f"{list(p.W.shape)}, and {choice.bits:.3f} were given: give more, or a lower rank"
        )
    meta, tensors = _trellis_part(q, costs, choice, budget, threads)
    meta = {**meta, **turn}
    if not len(R):
        return meta, tensors
    return _best_refit(p, meta, tensors, L, R, factor_bits, choice.refits)


def _trellis_part(
    p: Problem, costs: rates.Spread, choice: Choice, bits: float, threads: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """p.W on a trellis of at most `bits` a weight, everything stored counted."""
    row = row_steps(p.W, p.mask)
    return _coded(p, _spread_over(p, costs, row), row, choice, bits, threads)


def _spread_over(p: Problem, costs: rates.Spread, row: NDArray[np.int32]) -> rates.Spread:
    """`costs` with the variance of each column of p.W, and the share of it that is not zero."""
    s = replace(costs, variance=_variances(p.W, row, p.mask))
    if p.mask is None:
        return s
    share = p.mask.sum(0).to(torch.float64).numpy() / len(p.W)
    return replace(s, share=np.maximum(share, 1 / len(p.W)))


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
    for part in _parted(W):
        columns += part.square().sum(0)
    columns = (columns / in_column).clamp(min=float(columns.mean()) / len(W) * 1e-6 + _TINY)
    rows = torch.cat([part.square() @ (1 / columns) for part in _parted(W)])
    rows = (rows / in_row).sqrt().clamp(min=1e-4)
    exponent = torch.round(torch.log2(rows) * trellis.ROW_OCTAVE)
    return exponent.to(torch.int32).numpy()


def spread_of(W: Tensor, U: Factor, row: NDArray[np.int32]) -> rates.Spread:
    """What decides the column rates of W, its rows divided by their steps."""
    return rates.spread(_variances(W, row), U)


def _variances(
    W: Tensor, row: NDArray[np.int32], mask: Tensor | None = None
) -> NDArray[np.float64]:
    """Mean square of each column of W (of what a mask keeps), its rows divided by their steps.

    None is 0.
    """
    count = torch.tensor(float(len(W))) if mask is None else mask.sum(0).clamp(min=1)
    weight = torch.from_numpy(np.exp2(-2 * row / trellis.ROW_OCTAVE)).to(torch.float32)
    pairs = zip(_parted(weight), _parted(W), strict=True)
    variance = (sum((w @ part.square() for w, part in pairs), torch.zeros(())) / count).numpy()
    variance = variance.astype(np.float64)
    return np.asarray(np.maximum(variance, variance.mean() * 1e-9 + _TINY**2))


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
        ridge += _lost(p, s.share)
    return inverse_factor(p.H, ridge)


def _low_rank(
    p: Problem, U: Tensor, costs: rates.Spread, choice: Choice, seed: int
) -> tuple[Tensor, Tensor, int]:
    """(L, R, bits of their codes) of the stated rank, or of the rank that pays best."""
    none = torch.zeros(len(p.W), 0), torch.zeros(0, p.W.shape[1])
    if choice.rank == 0:
        return *none, choice.factor_bits or 8
    widths = FACTOR_BITS if choice.factor_bits is None else (choice.factor_bits,)
    ranks = [r for r in RANKS if 4 * r <= min(p.W.shape)] if choice.rank is None else [choice.rank]
    ranks = [min(r, *p.W.shape) for r in ranks]
    if not ranks:
        return *none, widths[0]
    L, R = _sketch(p, U, max(ranks), seed)
    if choice.rank is not None:
        return L, R, widths[0]
    some = slice(None, None, max(1, len(p.W) // _SAMPLE))
    seen, left = replace(p, W=p.W[some], importance=p.importance[some]), L[some]

    def damage(rank: int, width: int) -> float:
        """Predicted weighted error of these factors beside what they leave bits for."""
        residual = seen.W - _stored(left[:, :rank], R[:rank], width)
        code_bits = choice.bits - factors_bits(p.W.shape, rank, width) - side_bits(p.W.shape)
        return _predicted(seen, costs, residual, code_bits)

    best, found = (
        _predicted(seen, costs, seen.W, choice.bits - side_bits(p.W.shape)),
        (0, widths[0]),
    )
    for rank in ranks:  # what a rank buys rises, then falls
        now = damage(rank, widths[0])
        if now >= best:
            break
        best, found = now, (rank, widths[0])
    for width in widths[1:] if found[0] else ():
        now = damage(found[0], width)
        if now < best:
            best, found = now, (found[0], width)
    rank, width = found
    return L[:, :rank], R[:rank], width


def _predicted(p: Problem, costs: rates.Spread, W: Tensor, code_bits: float) -> float:
    """Predicted weighted error of coding W at these bits; infinite where there are none."""
    if code_bits <= 0:
        return float("inf")
    row = row_steps(W, p.mask)
    s = _spread_over(replace(p, W=W), costs, row)
    rows = p.importance * np.exp2(2 * row / trellis.ROW_OCTAVE)
    evened = float(rows.mean() * rates.unevenness(rows, np.array(code_bits)))
    return evened * rates.damage(s, rates.level_for(s, code_bits))


def single(U: Factor) -> Tensor:
    """In float32; not copied where it is."""
    return torch.from_numpy(np.asarray(U, np.float32))


def _sketch(p: Problem, U: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    return lowrank.whitened(p.W, U, rank, seed, torch.from_numpy(p.importance))


def _stored(L: Tensor, R: Tensor, bits: int) -> Tensor:
    """L R as it will be read back."""
    if not len(R):
        return torch.zeros(len(L), R.shape[1])
    meta = {"grid": "none", "shape": [len(L), R.shape[1]]}
    return torch.mm(*factors.split(*factors.attach(meta, {}, L, R, bits)))


def _best_refit(
    p: Problem,
    meta: dict[str, Any],
    tensors: dict[str, Tensor],
    L: Tensor,
    R: Tensor,
    bits: int,
    refits: int,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The factors beside what is stored, fitted again to what it left; the best iterate."""
    if not len(R):
        return dict(meta), dict(tensors)
    left_over = p.W - dense(meta, tensors)
    best = factors.attach(meta, tensors, L, R, bits)
    stored, kept = factors.split(*best)
    RH = kept @ p.H  # R stays as it is stored, so that L alone decides
    cross, gram = left_over @ RH.T, RH @ kept.T
    error = _objective(p, stored, cross, gram)
    for _ in range(refits):
        L = lowrank.refit_left(left_over, kept, p.H, p.ridge)
        trial = factors.attach(meta, tensors, L, R, bits)
        now = _objective(p, factors.split(*trial)[0], cross, gram)
        if now >= error:
            break
        best, error = trial, now
    return best


def _objective(p: Problem, L: Tensor, cross: Tensor, gram: Tensor) -> float:
    """tr(G (Z - L R) H (Z - L R)^T) - tr(G Z H Z^T), with `cross` Z H R^T and `gram` R H R^T.

    What L changes, without the products over all inputs that the whole would take.
    """
    rows = ((L @ gram - 2 * cross) * L).sum(1).to(torch.float64)
    return float(rows @ torch.from_numpy(p.importance))


def _turned(W: Tensor, H: Tensor, how: str, seed: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """(W, H) in rotated coordinates, and what undoes it."""
    if how == "none":
        return W, H, {}
    W, H = rotate(W, seed), rotate(rotate(H, seed).T.contiguous(), seed)
    H = (H + H.T) / 2
    if how == "in":
        return W, H, {"rotate": {"in": seed}}
    W = rotate(W.T.contiguous(), seed + 1).T.contiguous()
    return W, H, {"rotate": {"in": seed, "out": seed + 1}}
