"""The one solver inside a matrix: W -> mask * Q + L R under a choice.

    min tr(G (W - W^) H (W - W^)^T),   W^ = mask * Q + L R,   stored bits <= budget

with H the second moment of the inputs and G the (diagonal) importance of the outputs. Low rank
first, then the residual with error feedback, then one refit of L. Where weights are to be zero, the
mask, what stays and the low-rank part are found together first, and error feedback then codes what
stays. Every known method is a corner: round to nearest (no feedback), GPTQ (no rank), SparseGPT and
Wanda (16-bit Q), a whitened SVD (no Q), CALDERA (no mask), SLiM (all of it).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprue.weights import rates, sweep
from sprue.weights.beside import RANKS, as_stored, best_refit, sketch
from sprue.weights.choice import Choice
from sprue.weights.coding import factors_bits, predicted_damage, side_bits, trellis_part
from sprue.weights.factor import inverse_factor
from sprue.weights.grids import integer, raw
from sprue.weights.packed import Packed, dense, rows
from sprue.weights.problem import Problem, checked, in_parts, over, relative_error, single, squared
from sprue.weights.rotate import rotate
from sprue.weights.sparse import with_zeros

FACTOR_BITS = (3, 4, 8)
_LONG = 1 << 14  # more rows than a linear of a block has, nearly always: an embedding or a head
_SAMPLE = 512  # rows, at least, that ranks are compared on


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
    problem = checked(W, H, importance, choice.damping)
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
    for ids, part in zip(in_parts(torch.arange(len(W))), in_parts(W), strict=True):
        error += squared(part - rows(meta, tensors, ids), H)
        norm += squared(part, H)
    return over(error, norm)


def _solve(
    p: Problem, choice: Choice, seed: int, threads: int, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if choice.pattern is not None:
        return with_zeros(p, choice, seed, threads, dtype)
    if choice.grid == "none":
        return _factors_alone(p, choice, seed)
    if choice.grid == "trellis":
        return _on_trellis(p, choice, seed, threads)
    return _on_integers(p, choice, seed)


def _factors_alone(
    p: Problem, choice: Choice, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    meta: dict[str, Any] = {"grid": "none", "shape": list(p.W.shape)}
    U = single(inverse_factor(p.H, p.ridge))
    L, R = sketch(p, U, min(choice.rank or 0, *p.W.shape), seed)
    return best_refit(p, meta, {}, L, R, choice.factor_bits or 8, choice.refits)


def _on_integers(p: Problem, choice: Choice, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    bits = int(choice.bits)
    rank = min(choice.rank or 0, *p.W.shape)
    U = inverse_factor(p.H, p.ridge) if rank or choice.feedback else None
    L, R = torch.zeros(len(p.W), 0), torch.zeros(0, p.W.shape[1])
    factor_bits = choice.factor_bits or 8
    if rank and U is not None:
        L, R = sketch(p, single(U), rank, seed)
    residual = p.W - as_stored(L, R, factor_bits) if len(R) else p.W
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
    return best_refit(p, meta, tensors, L, R, factor_bits, choice.refits)


def _on_trellis(
    p: Problem, choice: Choice, seed: int, threads: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    U = inverse_factor(p.H, p.ridge)
    costs, U = rates.spread(np.ones(len(U)), U), np.asarray(U, np.float32)
    L, R, factor_bits = _low_rank(p, torch.from_numpy(U), costs, choice, seed)
    del U  # the factors of a wide layer are the most that is in memory
    residual = p.W - as_stored(L, R, factor_bits) if len(R) else p.W
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
    meta, tensors = trellis_part(q, costs, choice, budget, threads)
    meta = {**meta, **turn}
    if not len(R):
        return meta, tensors
    return best_refit(p, meta, tensors, L, R, factor_bits, choice.refits)


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
    L, R = sketch(p, U, max(ranks), seed)
    if choice.rank is not None:
        return L, R, widths[0]
    some = slice(None, None, max(1, len(p.W) // _SAMPLE))
    seen, left = replace(p, W=p.W[some], importance=p.importance[some]), L[some]

    def damage(rank: int, width: int) -> float:
        """Predicted weighted error of these factors beside what they leave bits for."""
        residual = seen.W - as_stored(left[:, :rank], R[:rank], width)
        code_bits = choice.bits - factors_bits(p.W.shape, rank, width) - side_bits(p.W.shape)
        return predicted_damage(seen, costs, residual, code_bits)

    best, found = (
        predicted_damage(seen, costs, seen.W, choice.bits - side_bits(p.W.shape)),
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
