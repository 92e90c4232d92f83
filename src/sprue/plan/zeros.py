"""How many zeros the inputs of each linear are to have: what they cost, and who bears how many.

For a share of zeros p of a linear y = W x, let t be the threshold below which a share p of its
inputs lies on the calibration text, and e what the threshold takes away from x. Then

    damage(p) = 1/2 E |G^1/2 W e|^2        nats per token,

with G the Fisher information of y (`models.fisher`): measured for each linear alone. Errors of one
token reach others through attention, and add up over blocks, neither of which this sees. So the
divergence is measured too, with the zeros in one kind of linear only and in one stretch of blocks
only, and the ratios to what was predicted correct the curves. TEAL (Liu et al. 2024,
arXiv:2408.14690, section 4.3) shares zeros out greedily within each block, by the error of the
block's output, and evenly over blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from sprue.errors import BudgetError, InputError
from sprue.models import Stream, thresholded
from sprue.models.fisher import fisher
from sprue.plan.calibration import spaced
from sprue.plan.solve import solve
from sprue.weights import threshold

LEVELS = tuple(k / 40 for k in range(40))  # shares that are tried
_TOKENS = 1024  # on which damage is measured, evenly spaced over all
_STRETCHES = 8  # runs of blocks, at most
_WINDOWS = 8  # on which the divergence is measured
_LOGITS = 4 << 20  # of one model, in memory at a time
_LEAST, _MOST = 1 / 8, 64.0  # a ratio beyond these is noise: next to nothing was predicted


@dataclass(frozen=True)
class Level:
    """One share of zeros of one linear.

    Attributes:
        share: of its inputs that count as zero.
        limit: the threshold that makes it, on the original's activations.
        size: weights that are still read.
        damage: predicted, nats per token.
    """

    share: float
    limit: float
    size: float
    damage: float


Curves = Mapping[str, Sequence[Level]]


def measure(
    stream: Stream, seed: int, *, progress: Callable[[], None] = lambda: None
) -> dict[str, list[Level]]:
    """Module name of every block linear -> what each of `LEVELS` costs, corrected.

    Args:
        stream: the original, on a few windows.
        seed: of the labels that the Fisher information draws.
        progress: called four times for every block.

    Raises:
        InputError: weights or activations that are not finite; says of which linear.
    """
    rows = fisher(stream, seed=seed, progress=lambda _: progress()).rows
    curves = _curves(stream, rows, progress)
    return _corrected(stream, curves, progress)


def share_out(curves: Curves, zeros: float) -> dict[str, Level]:
    """Module name -> its level: the least damage with a share `zeros` of weights not read.

    Raises:
        BudgetError: a share that cannot be met.
    """
    total = sum(row[0].size for row in curves.values())
    most = 1 - sum(row[-1].size for row in curves.values()) / total
    if not 0 < zeros <= most:
        raise BudgetError(
            f"a share of zeros must lie above 0% and at most at {100 * most:g}%, received "
            f"{100 * zeros:g}%"
        )
    return solve(curves, (1 - zeros) * total)


def even(curves: Curves, zeros: float) -> dict[str, Level]:
    """The same share for all, rounded to a level: what sharing out is compared with."""
    place = min(range(len(LEVELS)), key=lambda k: abs(LEVELS[k] - zeros))
    return {name: row[place] for name, row in curves.items()}


def damage(levels: Mapping[str, Level]) -> float:
    """Predicted divergence of the original from the result, nats per token."""
    return sum(level.damage for level in levels.values())


def sample(x: Tensor, tokens: int) -> Tensor:
    """At most `tokens` rows of x [rows, in], evenly spaced, a copy on the CPU."""
    if len(x) <= tokens:
        return x.to("cpu", copy=True)
    return spaced(x, tokens).cpu()


def _curves(
    stream: Stream, rows: Mapping[str, Tensor], progress: Callable[[], None]
) -> dict[str, list[Level]]:
    found: dict[str, list[Level]] = {}
    family, hidden = stream.source.family, stream.embed()
    share = max(1, _TOKENS * stream.batch // len(stream.ids))
    for i in range(stream.blocks):
        inputs: dict[str, list[Tensor]] = {}
        groups = family.groups(stream.source.config)
        taps = {g.linears[0]: _keeping(inputs.setdefault(g.inputs, []), share) for g in groups}
        stream.run(stream.load(i), i, hidden, taps, out=hidden)
        for group in groups:
            x = torch.cat(inputs.pop(group.inputs))
            for name in (f"{family.block(i)}.{local}" for local in group.linears):
                found[name] = _curve(name, stream.source.weight(name), x, rows[name])
        progress()
    return found


def _keeping(kept: list[Tensor], tokens: int) -> Callable[[Tensor], None]:
    return lambda x: kept.append(sample(x, tokens))


def _curve(name: str, W: Tensor, x: Tensor, G: Tensor) -> list[Level]:
    if not (torch.isfinite(x).all() and torch.isfinite(G).all()):
        raise InputError(
            f"{name}: what it receives or answers on the calibration text is not finite in float32;"
            " the checkpoint may be damaged: fetch or train it again"
        )
    A = W * G.sqrt().to(W.dtype)[:, None]
    limits = [threshold.at_share(x, share) for share in LEVELS]
    costs = [_cost(A, x, limit) for limit in limits]
    return [
        Level(share, limit, (1 - share) * prod(W.shape), cost)
        for share, limit, cost in zip(LEVELS, limits, costs, strict=True)
    ]


def _cost(A: Tensor, x: Tensor, limit: float) -> float:
    """1/2 E |A e|^2, e what the threshold takes away."""
    e = x - threshold.applied(x, limit)
    return 0.5 * float((e @ A.T).square().sum(1).mean(dtype=torch.float64))


def _corrected(
    stream: Stream, curves: dict[str, list[Level]], progress: Callable[[], None]
) -> dict[str, list[Level]]:
    """The curves times what the divergence was over the predicted, by kind and by stretch."""
    levels = share_out(curves, 0.5)
    kinds, stretches = _kinds(stream), _stretches(stream)
    sets = [list(curves), *kinds, *stretches]
    measured = _divergences(stream, [{n: levels[n].limit for n in some} for some in sets], progress)
    ratios = [
        min(max(kl / max(damage({n: levels[n] for n in some}), 1e-12), _LEAST), _MOST)
        for some, kl in zip(sets, measured, strict=True)
    ]
    factor = dict.fromkeys(curves, 1 / ratios[0])  # all at once: both corrections hold it
    for some, ratio in zip(sets[1:], ratios[1:], strict=True):
        for name in some:
            factor[name] *= ratio
    whole = ratios[0] * damage(levels) / sum(factor[n] * levels[n].damage for n in levels)
    return {
        name: [replace(level, damage=whole * factor[name] * level.damage) for level in row]
        for name, row in curves.items()
    }


def _kinds(stream: Stream) -> list[list[str]]:
    """The names of each kind of linear, over all blocks."""
    family = stream.source.family
    locals_ = family.linears(stream.source.config)
    return [[f"{family.block(i)}.{local}" for i in range(stream.blocks)] for local in locals_]


def _stretches(stream: Stream) -> list[list[str]]:
    """The names of all linears in each run of neighboring blocks."""
    family, count = stream.source.family, min(stream.blocks, _STRETCHES)
    locals_ = family.linears(stream.source.config)
    edges = [stream.blocks * k // count for k in range(count + 1)]
    return [
        [f"{family.block(i)}.{local}" for i in range(*edges[k : k + 2]) for local in locals_]
        for k in range(count)
    ]


def _divergences(
    stream: Stream, variants: Sequence[Mapping[str, float]], progress: Callable[[], None]
) -> list[float]:
    """KL(original || variant) in nats per token, for thresholds by module name.

    All go through a block while it is in memory; one that has no threshold yet is the original.
    """
    original = spaced(stream.embed(), _WINDOWS)
    states: list[Tensor | None] = [None] * len(variants)
    for i in range(stream.blocks):
        block, prefix = stream.load(i), f"{stream.source.family.block(i)}."
        for k, limits in enumerate(variants):
            own = {n.removeprefix(prefix): t for n, t in limits.items() if n.startswith(prefix)}
            before = states[k]
            if own or before is not None:
                with thresholded(block, own):
                    entering = original if before is None else before
                    states[k] = stream.run(block, i, entering)
        original = stream.run(block, i, original)
        progress()
    return _divergence(stream, original, [s if s is not None else original for s in states])


@torch.no_grad()
def _divergence(stream: Stream, original: Tensor, others: Sequence[Tensor]) -> list[float]:
    total = torch.zeros(len(others), dtype=torch.float64)
    for window, places in _chunks(original, int(stream.source.config.vocab_size)):
        p = stream.logits(original[window, places]).log_softmax(-1)
        for k, other in enumerate(others):
            q = stream.logits(other[window, places]).log_softmax(-1)
            total[k] += (p.exp() * (p - q)).sum(dtype=torch.float64).cpu()
    stream.release()
    return [float(t) for t in total / (original.shape[0] * original.shape[1])]


def _chunks(hidden: Tensor, vocabulary: int) -> Iterable[tuple[slice, slice]]:
    windows, context = hidden.shape[:2]
    tokens = max(1, _LOGITS // vocabulary)
    for first in range(windows):
        for start in range(0, context, tokens):
            yield slice(first, first + 1), slice(start, start + tokens)
