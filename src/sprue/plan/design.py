"""From a budget to a recipe: which matrix gets how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from sprue.errors import BudgetError
from sprue.models import Source
from sprue.plan import presets
from sprue.plan.recipe import Recipe
from sprue.plan.solve import Candidate, solve
from sprue.plan.survey import DAMPING, Survey
from sprue.weights import decompose
from sprue.weights.choice import Choice
from sprue.weights.grids import integer

# 8 bits do no measurable harm to an embedding (0.0% for Q8_0, benchmarks/LOG.md)
OUTER = Choice("int", 8, group_size=64, feedback=False)
_OUTER_BITS = (8, 6, 5, 4, 3)
_LEAST, _MOST, _STEP = 0.75, 6.25, 0.125


@dataclass(frozen=True)
class Matrices:
    """The matrices of a model that may be stored in another way, and what the rest takes.

    Attributes:
        linears: module name -> (out, in), in the order of the walk.
        outer: the same for the embedding and, where it is its own, the head.
        rest: bytes of everything else (norms, biases, learned positions).
    """

    linears: Mapping[str, tuple[int, int]]
    outer: Mapping[str, tuple[int, int]]
    rest: int


def matrices(source: Source) -> Matrices:
    """The matrices of a model."""
    family = source.family
    locals_ = family.linears(source.config)
    linears = {
        name: _shape(source, name)
        for i in range(source.blocks)
        for name in (f"{family.block(i)}.{local}" for local in locals_)
    }
    names = [family.embedding] if source.tied else [family.embedding, family.head]
    outer = {name: _shape(source, name, plain=True) for name in names}
    taken = sum(
        prod(source.shape(f"{name}.weight")) * source.dtype(f"{name}.weight").itemsize
        for name in [*linears, *outer]
    )
    return Matrices(linears, outer, source.nbytes - taken)


def for_bits(m: Matrices, bits: float, seed: int, survey: Survey | None, preset: str) -> Recipe:
    """`bits` a weight over the linears, everything stored counted; embedding and head at 8."""
    outer = dict.fromkeys(m.outer, OUTER)
    return Recipe({**outer, **_linears(m, bits, survey, preset)}, preset, seed, **_flags(survey))


def for_size(m: Matrices, size: int, seed: int, survey: Survey | None, preset: str) -> Recipe:
    """All tensors in `size` bytes.

    Raises:
        BudgetError: it cannot be done.
    """
    room = 8.0 * (size - m.rest)
    if room <= 0:
        raise BudgetError(
            f"{size:,} bytes do not hold what stays as it is (norms, biases, positions: "
            f"{m.rest:,} bytes): give more"
        )
    if survey is not None:
        picked = solve({name: options(survey, name) for name in [*m.outer, *m.linears]}, room)
        return Recipe(
            {name: _best(c.bits) for name, c in picked.items()}, preset, seed, **_flags(survey)
        )
    weights = sum(out * width for out, width in m.linears.values())
    for code in _OUTER_BITS:
        outer = {name: Choice("int", code, group_size=64, feedback=False) for name in m.outer}
        taken = sum(integer.stored_bits(s, code, 64, True) for s in m.outer.values())
        # the embedding steps down only when the linears would otherwise get less than half of it
        if (room - taken) / weights >= code / 2 or code == _OUTER_BITS[-1]:
            bits = (room - taken) / weights
            if bits <= 0:
                break
            return Recipe({**outer, **_linears(m, bits, None, preset)}, preset, seed, False, False)
    raise BudgetError(f"{size:,} bytes do not hold the embedding of this model: give more")


def options(survey: Survey, name: str) -> list[Candidate]:
    """What a matrix may take, from 3/4 of a bit a weight in eighths, with predicted damage."""
    out, width = survey.outlooks[name].shape
    least = max(_LEAST, decompose.side_bits((out, width)) + 0.5)
    count = int((_MOST - least) / _STEP) + 1
    rows = [least + _STEP * i for i in range(max(count, 1))]
    return [Candidate(b, b * out * width, survey.damage(name, b)) for b in rows]


def _linears(m: Matrices, bits: float, survey: Survey | None, preset: str) -> dict[str, Choice]:
    if survey is None:
        return {name: presets.choice(preset, shape, bits) for name, shape in m.linears.items()}
    room = bits * sum(out * width for out, width in m.linears.values())
    picked = solve({name: options(survey, name) for name in m.linears}, room)
    return {name: _best(picked[name].bits) for name in m.linears}


def _best(bits: float) -> Choice:
    return Choice("trellis", bits, rank=None, factor_bits=None, damping=DAMPING)


def _flags(survey: Survey | None) -> dict[str, bool]:
    return {"shift": survey is not None, "importance": survey is not None}


def _shape(source: Source, name: str, plain: bool = False) -> tuple[int, int]:
    a, b = source.shape(f"{name}.weight")
    return (b, a) if source.family.transposed and not plain else (a, b)
