"""Known methods by their own names: corners of the one solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import floor

from sprue.errors import BudgetError
from sprue.weights import factors
from sprue.weights.choice import Choice
from sprue.weights.grids import integer

Shape = tuple[int, int]

GROUPS = (32, 64, 128, 256, None)
_SVD_FACTOR_BITS = 8
_CALDERA_FACTOR_BITS = 4
_CALDERA_RANK_SHARE = 16  # the rank is the smaller side over this, as 256 of 4096 in the paper


def choice(preset: str, shape: Shape, bits: float) -> Choice:
    """How `preset` stores a matrix of this shape in at most `bits` a weight, all counted.

    Raises:
        BudgetError: an unknown preset, or one that cannot be had for so few bits.
    """
    if preset not in PRESETS:
        raise BudgetError(f"unknown preset {preset!r}: known are {', '.join(PRESETS)}")
    return PRESETS[preset](shape, bits)


def integers(shape: Shape, bits: float, feedback: bool) -> Choice:
    """The integer grid that stores the most within `bits` a weight."""
    weights = shape[0] * shape[1]
    menu = [
        (integer.stored_bits(shape, code, group, True) / weights, code, group)
        for code in range(2, 9)
        for group in GROUPS
        if group is None or group <= shape[1]
    ]
    fitting = [entry for entry in menu if entry[0] <= bits]
    if not fitting:
        least = min(entry[0] for entry in menu)
        raise BudgetError(
            f"an integer grid takes at least {least:.3f} bits a weight for a matrix of "
            f"{shape[0]} x {shape[1]}, scales included; {bits:g} were given: give more, or leave "
            "out --preset (the solver's own grid goes down to 1 bit)"
        )
    _, code, group = max(fitting, key=lambda entry: (entry[0], entry[1]))
    return Choice("int", code, group_size=group, feedback=feedback)


def _svd(shape: Shape, bits: float) -> Choice:
    one = factors.stored_bits(shape, 1, _SVD_FACTOR_BITS)
    rank = min(floor(bits * shape[0] * shape[1] / one), *shape)
    if rank < 1:
        raise BudgetError(f"{bits:g} bits a weight hold no factor of {shape[0]} x {shape[1]}")
    return Choice("none", bits, rank=rank, factor_bits=_SVD_FACTOR_BITS)


def _caldera(shape: Shape, bits: float) -> Choice:
    rank = max(1, min(shape) // _CALDERA_RANK_SHARE)
    weights = shape[0] * shape[1]
    while rank > 1 and factors.stored_bits(shape, rank, _CALDERA_FACTOR_BITS) > bits * weights / 4:
        rank //= 2  # small matrices: factors take a quarter of the bits at most
    return Choice("trellis", bits, rotate="both", rank=rank, factor_bits=_CALDERA_FACTOR_BITS)


PRESETS: Mapping[str, Callable[[Shape, float], Choice]] = {
    "rtn": lambda shape, bits: integers(shape, bits, feedback=False),
    "gptq": lambda shape, bits: integers(shape, bits, feedback=True),
    "svd": _svd,
    "caldera": _caldera,
}
