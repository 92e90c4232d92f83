"""Which weights become zero, and what the others become for it.

    min over V with a mask of the pattern:  tr(G (W - L R - V) H (W - L R - V)^T)

The mask, the weights that stay and the low-rank part are found together, by the alternating
direction method of multipliers: one step solves for all weights with a pull towards the masked
ones, the next chooses the mask anew. The pull grows, so that the mask settles; then the weights
are fitted to the least squares under the final mask by conjugate gradients (Boyd et al. 2011,
section 9.1; ALPS, Meng et al. 2024, sections 3.2 and 3.3, and Boža 2024 prune language models so).
Against a sweep that decides column by column (SparseGPT), weights before a zero make up for it as
much as those after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprue.weights import patterns
from sprue.weights.factor import inverse
from sprue.weights.patterns import Pattern

# The pull towards the masked weights, over H with a diagonal of 1, in each stage. A weak one lets
# steep spectra find their mask, a strong one makes it settle; doubling lost least between them.
_PULLS = (0.05, 0.1, 0.2, 0.4, 0.8)
_ROWS = 1024  # fitted at once under the mask: each row is a problem of its own


@dataclass(frozen=True)
class Task:
    """What is to be pruned.

    Attributes:
        W: float32 [out, in].
        H: float32 [in, in], second moment of the inputs.
        importance: float32 [out] > 0, the diagonal of G.
        ridge: added to the diagonal of H.
        pattern: which zeros go together.
        sparsity: share of zeros; an N:M pattern has its own.
    """

    W: Tensor
    H: Tensor
    importance: Tensor
    ridge: float
    pattern: Pattern
    sparsity: float


@dataclass(frozen=True)
class Pruned:
    """What came of it.

    Attributes:
        V: float32 [out, in], zero outside the mask.
        mask: bool [out, in], what stays.
    """

    V: Tensor
    mask: Tensor


def by_score(task: Task) -> Pruned:
    """Wanda (Sun et al. 2023, section 3): |W| sqrt(diag H), compared within rows; W stays."""
    score = task.W.abs() * task.H.diagonal().clamp(min=0).sqrt()
    mask = patterns.select(score, task.pattern, task.sparsity, by_row=True)
    return Pruned(task.W * mask, mask)


def jointly(
    task: Task, steps: int, low_rank: Callable[[Tensor], Tensor] | None = None
) -> tuple[Pruned, Tensor | None]:
    """(V and its mask, L R), found together.

    Args:
        task: what is to be pruned.
        steps: in each of the stages, and of the fit under the final mask.
        low_rank: fits the low-rank part to what it is given, [out, in] -> L R; None: there is none.
    """
    H, scale = _even(task)
    beside = None if low_rank is None else low_rank(task.W)
    X = _aim(task, beside, scale)
    state = _State(X, torch.zeros_like(X), _mask(task, X))
    state.Z = X * state.mask
    before = _PULLS[0]
    for pull in _PULLS:
        # once, when the mask is nearly what it will be: sooner, the factors learn what is still
        # on its way to zero
        if low_rank is not None and pull == _PULLS[-1]:
            beside = low_rank(task.W - state.Z / scale)
            X = _aim(task, beside, scale)
        state.dual *= before / pull
        _run(task, state, X, _inverse(H, pull), pull, steps)
        before = pull
    del state.dual
    _fitted(state, X, H, steps)
    return Pruned(state.Z / scale, state.mask), beside


def each(tasks: Sequence[Task], steps: int) -> list[Pruned]:
    """The same for several tasks with one H and ridge, without low-rank parts.

    What H alone decides is worked out once for all of them.
    """
    if not tasks:
        return []
    H, scale = _even(tasks[0])
    aims = [_aim(task, None, scale) for task in tasks]
    states = [
        _State(X * mask, torch.zeros_like(X), mask)
        for X, mask in ((X, _mask(task, X)) for task, X in zip(tasks, aims, strict=True))
    ]
    before = _PULLS[0]
    for pull in _PULLS:
        inverse = _inverse(H, pull)
        for task, X, state in zip(tasks, aims, states, strict=True):
            state.dual *= before / pull
            _run(task, state, X, inverse, pull, steps)
        before = pull
    for X, state in zip(aims, states, strict=True):
        _fitted(state, X, H, steps)
    return [Pruned(state.Z / scale, state.mask) for state in states]


def flops(rows: int, width: int, steps: int) -> float:
    """Floating-point operations of `jointly` for so many rows, without low-rank parts."""
    stages = len(_PULLS)
    products = stages * (1 + steps) + 1 + steps
    return 2.0 * width**2 * (stages * width + products * rows)


@dataclass
class _State:
    Z: Tensor
    dual: Tensor
    mask: Tensor


def _even(task: Task) -> tuple[Tensor, Tensor]:
    """(H in coordinates in which its diagonal is 1, what takes weights there)."""
    scale = (task.H.diagonal() + task.ridge).sqrt()
    H = (task.H / scale).div_(scale[:, None])
    H.diagonal().fill_(1.0)
    return H, scale


def _run(task: Task, state: _State, X: Tensor, inverse: Tensor, pull: float, steps: int) -> None:
    """`steps` of the method at one pull, with (H + pull)^-1."""
    still = X - pull * (X @ inverse)  # X H (H + pull)^-1
    for _ in range(steps):
        Y = torch.addmm(still, state.Z - state.dual, inverse, alpha=pull)
        Y += state.dual
        state.mask = _mask(task, Y)
        state.Z = Y * state.mask
        state.dual = Y.sub_(state.Z)


def _fitted(state: _State, X: Tensor, H: Tensor, steps: int) -> None:
    """What stays, fitted under the final mask; in place."""
    for part in range(0, len(X), _ROWS):
        rows = slice(part, part + _ROWS)
        _fit(state.Z[rows], X[rows], H, state.mask[rows], steps)


def _fit(Z: Tensor, X: Tensor, H: Tensor, mask: Tensor, steps: int) -> None:
    """Moves Z, under its mask, towards the least of tr((Z - X) H (Z - X)^T); in place.

    Conjugate gradients, every row with steps of its own. H has a diagonal of 1, so that nothing is
    left for a diagonal preconditioner to do.
    """
    left = ((X - Z) @ H).mul_(mask)
    along, size = left.clone(), left.square().sum(1)
    for _ in range(steps):
        ahead = (along @ H).mul_(mask)
        step = _ratio(size, (along * ahead).sum(1))
        Z.addcmul_(step, along)
        left.addcmul_(step, ahead, value=-1)
        before, size = size, left.square().sum(1)
        along.mul_(_ratio(size, before[:, None])).add_(left)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b as a column; 0 where b is: a row that is fitted stays as it is."""
    a, b = a.view(-1, 1), b.view(-1, 1)
    return torch.where(b > 0, a / b, 0)


def _inverse(H: Tensor, pull: float) -> Tensor:
    A = H.clone()
    A.diagonal().add_(pull)
    return inverse(A)


def _aim(task: Task, beside: Tensor | None, scale: Tensor) -> Tensor:
    W = task.W if beside is None else task.W - beside
    return W * scale


def _mask(task: Task, X: Tensor) -> Tensor:
    score = X.square().mul_(task.importance[:, None])
    return patterns.select(score, task.pattern, task.sparsity)
