"""What a choice takes of each budget, known before anything is packed."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from sprue.weights import factors, patterns
from sprue.weights.choice import Choice
from sprue.weights.grids import integer

_FACTOR_BITS = 8  # where a choice leaves them open


@dataclass(frozen=True)
class Taken:
    """What one matrix takes.

    Attributes:
        bits: of everything stored.
        nonzeros: weights of Q that are not zero.
        flops: floating-point operations for a token.
    """

    bits: float
    nonzeros: float
    flops: float


def taken(choice: Choice, shape: tuple[int, int], stored: int) -> Taken:
    """What `choice` takes for a matrix; a rank that is found when it is packed counts as none.

    Args:
        choice: how.
        shape: (out, in).
        stored: bits of a weight in the original, which "raw" keeps.
    """
    pattern = patterns.parse(choice.pattern) if choice.pattern else None
    zeros = patterns.zeros_of(pattern, choice.sparsity, shape[1]) if pattern else 0.0
    rank = min(choice.rank or 0, *shape)
    nonzeros = 0.0 if choice.grid == "none" else (1 - zeros) * prod(shape)
    beside = factors.stored_bits(shape, rank, choice.factor_bits or _FACTOR_BITS) if rank else 0
    beside += patterns.stored_bits(shape, pattern) if pattern else 0
    flops = 2 * nonzeros + 2 * rank * sum(shape)
    return Taken(_codes(choice, shape, nonzeros, stored, beside), nonzeros, flops)


def _codes(
    choice: Choice, shape: tuple[int, int], nonzeros: float, stored: int, beside: float
) -> float:
    if choice.grid == "trellis":
        return choice.bits * prod(shape)  # mask and factors are within it
    if choice.grid == "int":
        group, symmetric = choice.group_size, choice.symmetric
        whole = integer.stored_bits(shape, int(choice.bits), group, symmetric)
        return whole - choice.bits * (prod(shape) - nonzeros) + beside
    return stored * nonzeros + beside
