"""Known methods by their own names: corners of the one solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, floor, prod
from statistics import NormalDist
from typing import Literal

from sprue.errors import BudgetError, InputError
from sprue.plan.solve import Candidate, solve
from sprue.weights import coding, factors, patterns
from sprue.weights.choice import Choice
from sprue.weights.grids import integer

Shape = tuple[int, int]
Shapes = Mapping[str, Shape]

GROUPS = (32, 64, 128, 256, None)
_CODES = range(2, 9)
_LEAST_CODE = 0.5  # bits a weight of the trellis' own stream, below which it has no rate to give
_EULER = 0.5772156649
_SVD_FACTOR_BITS = 8
_SLIM_DAMPING = 0.001
_CALDERA_FACTOR_BITS = 4
_CALDERA_RANK_SHARE = 16  # the rank is the smaller side over this, as 256 of 4096 in the paper


@dataclass(frozen=True)
class Zeros:
    """Zeros that every matrix is to have.

    Attributes:
        pattern: which go together, as `weights.patterns` names them.
        sparsity: share of zeros; a pattern of N:M has its own.
    """

    pattern: str
    sparsity: float

    def bits(self, shape: Shape) -> float:
        """Bits a weight that the mask of a matrix takes."""
        return coding.mask_bits(shape, patterns.parse(self.pattern))


def choices(
    preset: str, shapes: Shapes, bits: float, zeros: Zeros | None = None
) -> dict[str, Choice]:
    """How `preset` stores matrices in at most `bits` a weight over all of them, all counted.

    Args:
        preset: its name.
        shapes: module name -> (out, in).
        bits: the budget; presets that keep 16 bits a weight do not ask for it.
        zeros: which zeros; presets without any take None.

    Raises:
        InputError: an unknown preset, or one that needs zeros and got none, or the other way.
        BudgetError: one that cannot be had for so few bits; says which matrix.
    """
    known(preset)
    check_zeros(preset, zeros)
    if zeros is not None:
        return {name: PRUNING[preset](name, shapes[name], bits, zeros) for name in shapes}
    return dict(zip(shapes, PRESETS[preset](shapes, bits), strict=True))


def known(preset: str) -> None:
    """Refuse a preset that does not exist.

    Raises:
        InputError: it does not.
    """
    names = (*PRESETS, *PRUNING)
    if preset not in names:
        raise InputError(f"unknown preset {preset!r}: known are {', '.join(names)}")


def check_zeros(preset: str, zeros: Zeros | None) -> None:
    """Refuse a preset with zeros that it does not know, or without those that it needs.

    Raises:
        InputError: it is so.
    """
    if preset in PRUNING and zeros is None:
        raise InputError(
            f"the preset {preset} makes zeros: say how many (--sparsity 50%) or in which pattern "
            "(--pattern 2:4)"
        )
    if preset in PRESETS and zeros is not None:
        raise InputError(
            f"the preset {preset} makes no zeros: take one of {', '.join(PRUNING)}, or leave the "
            "preset out"
        )


def integer_candidates(
    shape: Shape, feedback: bool, damping: float = 0.01, codes: Sequence[int] = _CODES
) -> list[Candidate]:
    """Integer grids for a matrix; the damage is the squared error of normal weights, all of them.

    A rate that integers and their scales do not meet is met over all matrices: some take the grid
    above it, some the grid below.
    """
    sizes = [g for g in GROUPS if g is None or g <= shape[1]]
    return [
        Candidate(
            Choice("int", code, group_size=group, feedback=feedback, damping=damping),
            integer.stored_bits(shape, code, group, True),
            prod(shape) * rounding(code, group or shape[1]),
        )
        for code in codes
        for group in sizes
    ]


@cache
def rounding(bits: int, group: int) -> float:
    """Mean squared error of rounding standard normal numbers, a scale for every `group` of them.

    2^bits levels span -c .. c in steps of 2c / 2^bits. The best c is taken: the largest of the
    group, which is typically exceeded with probability exp(-gamma) / group, or less, with the
    error of what then lies beyond.
    """
    largest = NormalDist().inv_cdf(1 - exp(-_EULER) / (2 * group))
    clipped = (largest * i / 64 for i in range(1, 64))
    return min(_inside(bits, largest), *(_inside(bits, c) + _beyond(c) for c in clipped))


def _inside(bits: int, c: float) -> float:
    return (2 * c / 2.0**bits) ** 2 / 12


def _beyond(c: float) -> float:
    normal = NormalDist()
    return 2 * ((1 + c * c) * normal.cdf(-c) - c * normal.pdf(c))


def _integers(shapes: Shapes, bits: float, feedback: bool) -> list[Choice]:
    menu = {name: integer_candidates(shape, feedback) for name, shape in shapes.items()}
    weights = sum(prod(shape) for shape in shapes.values())
    least = sum(min(c.size for c in row) for row in menu.values()) / weights
    if least > bits:
        raise BudgetError(
            f"an integer grid takes at least {least:.3f} bits a weight here, scales included; "
            f"{bits:g} were given: give more, or leave out --preset (the solver's own grid goes "
            "below 1 bit)"
        )
    return [c.choice for c in solve(menu, bits * weights).values()]


def _svd(name: str, shape: Shape, bits: float) -> Choice:
    one = factors.stored_bits(shape, 1, _SVD_FACTOR_BITS)
    rank = min(floor(bits * prod(shape) / one), *shape)
    while rank and factors.stored_bits(shape, rank, _SVD_FACTOR_BITS) > bits * prod(shape):
        rank -= 1
    if rank < 1:
        raise BudgetError(
            f"{name} ({shape[0]} x {shape[1]}): one component of a factor takes "
            f"{one / prod(shape):.3f} bits a weight, {bits:g} were given: give more"
        )
    return Choice("none", bits, rank=rank, factor_bits=_SVD_FACTOR_BITS)


def _caldera(name: str, shape: Shape, bits: float) -> Choice:
    rank = max(1, min(shape) // _CALDERA_RANK_SHARE)
    weights = prod(shape)
    while rank > 1 and factors.stored_bits(shape, rank, _CALDERA_FACTOR_BITS) > bits * weights / 4:
        rank //= 2  # small matrices: factors take a quarter of the bits at most
    low_rank = factors.stored_bits(shape, rank, _CALDERA_FACTOR_BITS) / weights
    least = low_rank + coding.side_bits(shape) + _LEAST_CODE
    if bits < least:
        raise BudgetError(
            f"{name} ({shape[0]} x {shape[1]}) takes at least {least:.3f} bits a weight, its "
            f"factors included; {bits:g} were given: give more"
        )
    return Choice("trellis", bits, rotate="both", rank=rank, factor_bits=_CALDERA_FACTOR_BITS)


def _each(one: Callable[[str, Shape, float], Choice]) -> Callable[[Shapes, float], list[Choice]]:
    """The preset that gives every matrix the same bits a weight."""
    return lambda shapes, bits: [one(name, shape, bits) for name, shape in shapes.items()]


PRESETS: Mapping[str, Callable[[Shapes, float], list[Choice]]] = {
    "rtn": lambda shapes, bits: _integers(shapes, bits, feedback=False),
    "gptq": lambda shapes, bits: _integers(shapes, bits, feedback=True),
    "svd": _each(_svd),
    "caldera": _each(_caldera),
}


def _slim(name: str, shape: Shape, bits: float, zeros: Zeros) -> Choice:
    least = zeros.bits(shape) + coding.side_bits(shape) + (1 - zeros.sparsity) * _LEAST_CODE
    if bits < least:
        raise BudgetError(
            f"{name} ({shape[0]} x {shape[1]}) takes at least {least:.3f} bits a weight, its mask "
            f"included; {bits:g} were given: give more"
        )
    return Choice(
        *("trellis", bits),
        rank=None,
        factor_bits=None,
        damping=_SLIM_DAMPING,
        pattern=zeros.pattern,
        sparsity=zeros.sparsity,
    )


def _plain(how: Literal["joint", "sweep"], feedback: bool) -> Callable[..., Choice]:
    """The preset that keeps what stays at the model's own 16 bits."""

    def one(name: str, shape: Shape, bits: float, zeros: Zeros) -> Choice:
        return Choice(
            *("raw", 16),
            feedback=feedback,
            pattern=zeros.pattern,
            sparsity=zeros.sparsity,
            zeros=how,
        )

    return one


PRUNING: Mapping[str, Callable[[str, Shape, float, Zeros], Choice]] = {
    "wanda": _plain("sweep", feedback=False),
    "sparsegpt": _plain("sweep", feedback=True),
    "slim": _slim,
}
UNCODED = ("wanda", "sparsegpt")  # presets whose size follows from their zeros
