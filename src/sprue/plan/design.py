"""From a budget to a recipe: which matrix gets how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, prod

from sprue.errors import BudgetError
from sprue.models import Source
from sprue.plan import presets
from sprue.plan.demands import DAMPING, NONE, Demands
from sprue.plan.program import program
from sprue.plan.recipe import Recipe
from sprue.plan.solve import Candidate, solve
from sprue.plan.survey import Survey
from sprue.weights import coding, rates
from sprue.weights.choice import Choice
from sprue.weights.grids import integer

BEST = "best"  # the preset's name where the solver picks
_OUTER_BITS = (8, 6, 5, 4, 3)  # 8 bits do an embedding no harm that can be measured
_OUTER_GROUP = 64
_LEAST, _LEAST_CODE, _STEP = 0.75, 0.5, 0.125  # bits a weight of trellises that are tried
_ZEROS_STEP = 0.25  # between those with zeros, of which there are many more
_ABOVE = (7, 8)  # bits of integer codes, which go on where the trellis ends


@dataclass(frozen=True)
class Matrices:
    """The matrices of a model that may be stored in another way, and what the rest takes.

    Attributes:
        linears: module name -> (out, in), in the order of the walk.
        outer: the same for the embedding and, where it is its own, the head.
        rest: bytes of everything else (norms, biases, learned positions).
        head: (out, in) of the output layer, its own matrix or not.
    """

    linears: Mapping[str, tuple[int, int]]
    outer: Mapping[str, tuple[int, int]]
    rest: int
    head: tuple[int, int]

    @property
    def heads(self) -> dict[str, tuple[int, int]]:
        """The output layer, for sums."""
        return {"head": self.head}

    @property
    def flops(self) -> int:
        """Floating-point operations of all linears and the head for a token."""
        return 2 * (self.weights + prod(self.head))

    @property
    def total(self) -> int:
        """Number of weights of all matrices."""
        return self.weights + sum(prod(shape) for shape in self.outer.values())

    @property
    def weights(self) -> int:
        """Number of weights of the linears."""
        return sum(prod(shape) for shape in self.linears.values())


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
    return Matrices(linears, outer, source.nbytes - taken, outer[names[-1]])


def check(m: Matrices, bits: float | None, size: int | None) -> None:
    """Refuse a budget that the solver cannot meet, before the model is surveyed.

    Args:
        m: the matrices.
        bits: bits a weight over the linears, or None.
        size: bytes of all tensors, or None.

    Raises:
        BudgetError: not even the least of everything fits.
    """
    if bits is not None:
        least = sum(_least(shape) * prod(shape) for shape in m.linears.values()) / m.weights
        if least > bits:
            raise BudgetError(
                f"this model's linears take at least {least:.3f} bits a weight, {bits:g} were "
                "given: give more"
            )
    if size is not None:
        shapes = [*m.outer.values(), *m.linears.values()]
        bytes_ = m.rest + ceil(sum(_least(shape) * prod(shape) for shape in shapes) / 8)
        if bytes_ > size:
            raise BudgetError(
                f"this model takes at least {bytes_:,} bytes ({m.rest:,} of them for norms, biases "
                f"and positions, which stay as they are); {size:,} were given: give more"
            )


def for_bits(
    m: Matrices,
    bits: float,
    seed: int,
    survey: Survey | None,
    preset: str,
    demands: Demands = NONE,
) -> Recipe:
    """`bits` a weight over the linears, everything stored counted; embedding and head at 8.

    Args:
        m: the matrices.
        bits: the budget.
        seed: of the recipe.
        survey: what the solver picks by, with the preset "best"; else None.
        preset: its name.
        demands: zeros and FLOPs that are asked for beside.

    Raises:
        BudgetError: it cannot be done.
    """
    outer = {name: _outer(shape, _OUTER_BITS[0]) for name, shape in m.outer.items()}
    if survey is None or preset != BEST:
        linears = presets.choices(preset, m.linears, bits, demands.uniform())
    else:
        menu = {name: options(survey, name, demands) for name in m.linears}
        linears = _picked(menu, bits * m.weights, m, demands)
    return _recipe({**outer, **linears}, preset, seed, survey)


def with_zeros_alone(m: Matrices, seed: int, preset: str, demands: Demands) -> Recipe:
    """Zeros, and nothing else: what is not zero stays at the bits that it has.

    Raises:
        InputError: no zeros were asked for.
    """
    linears = presets.choices(preset, m.linears, 0.0, demands.uniform())
    return _recipe(linears, preset, seed, None)


def for_size(
    m: Matrices,
    size: int,
    seed: int,
    survey: Survey | None,
    preset: str,
    demands: Demands = NONE,
) -> Recipe:
    """All tensors in `size` bytes; the other arguments as for `for_bits`.

    Raises:
        BudgetError: it cannot be done.
    """
    room = 8 * (size - m.rest)
    if room <= 0:
        raise BudgetError(
            f"{size:,} bytes do not hold what stays as it is (norms, biases, positions: "
            f"{m.rest:,} bytes): give more"
        )
    if survey is None or preset != BEST:
        return _recipe(_by_preset(m, room, preset, demands), preset, seed, survey)
    outer = {name: options(survey, name) for name in m.outer}
    linears = {name: options(survey, name, demands) for name in m.linears}
    return _recipe(_picked({**outer, **linears}, room, m, demands), preset, seed, survey)


def damage(survey: Survey, recipe: Recipe) -> float:
    """What a recipe of the solver's is predicted to do, in nats per token."""
    total = 0.0
    for name, choice in recipe.tensors.items():
        row = options(survey, name)
        total += min((c.damage for c in row if c.choice == choice), default=0.0)
    return total


def range_of(m: Matrices, survey: Survey, demands: Demands = NONE) -> tuple[int, int]:
    """The least and the most bytes of all tensors that the solver can be asked for."""
    rows = [
        *(options(survey, name) for name in m.outer),
        *(options(survey, name, demands) for name in m.linears),
    ]
    least, most = (sum(pick(c.size for c in row) for row in rows) / 8 for pick in (min, max))
    return m.rest + ceil(least), m.rest + ceil(most)


def options(survey: Survey, name: str, demands: Demands = NONE) -> list[Candidate]:
    """What a matrix may take, with predicted damage in nats per token.

    Trellises from 3/4 of a bit a weight in eighths to the most that they hold, then integers; with
    zeros, where the survey has tried any.
    """
    if demands.everywhere:
        return _with_zeros(survey, name)
    return _without_zeros(survey, name) + _with_zeros(survey, name)


def _with_zeros(survey: Survey, name: str) -> list[Candidate]:
    """Trellises with zeros, in steps of a quarter of a bit."""
    found = []
    for choice, outlook in survey.zeros.get(name, ()):
        (out, width), weights = outlook.shape, prod(outlook.shape)
        nonzeros = outlook.kept * weights
        flops = 2 * nonzeros + 2 * (choice.rank or 0) * (out + width)
        least = max(_LEAST, outlook.side_bits + _LEAST_CODE * outlook.kept + _STEP)
        most = outlook.side_bits + outlook.kept * rates.MOST / rates.UNIT
        for i in range(int((most - least) / _ZEROS_STEP) + 1):
            bits = least + _ZEROS_STEP * i
            size, lost = bits * weights, survey.damage(name, bits, outlook)
            found.append(Candidate(choice.with_bits(bits), size, lost, flops, nonzeros))
    return found


def _without_zeros(survey: Survey, name: str) -> list[Candidate]:
    shape = survey.outlooks[name].shape
    weights, least = prod(shape), _least(shape)
    most = max(least, coding.side_bits(shape) + rates.MOST / rates.UNIT)
    bits = [least + _STEP * i for i in range(int((most - least) / _STEP) + 1)]
    whole = (2.0 * weights, float(weights))
    trellises = [Candidate(_trellis(b), b * weights, survey.damage(name, b), *whole) for b in bits]
    integers = presets.integer_candidates(shape, feedback=True, damping=DAMPING, codes=_ABOVE)
    unit = survey.power(name) / weights
    return trellises + [Candidate(c.choice, c.size, c.damage * unit, *whole) for c in integers]


def _least(shape: tuple[int, int]) -> float:
    """Bits a weight of the smallest trellis that is tried."""
    return max(_LEAST, coding.side_bits(shape) + _LEAST_CODE)


def _by_preset(m: Matrices, room: int, preset: str, demands: Demands) -> dict[str, Choice]:
    """The embedding steps down only when linears would otherwise get less than half of it."""
    for code in _OUTER_BITS:
        outer = {name: _outer(shape, code) for name, shape in m.outer.items()}
        left = room - sum(
            integer.stored_bits(m.outer[name], code, choice.group_size, choice.symmetric)
            for name, choice in outer.items()
        )
        if left / m.weights >= code / 2:
            break
    if left <= 0:
        raise BudgetError(
            f"{room // 8:,} bytes do not hold this model's embedding and head, even at "
            f"{_OUTER_BITS[-1]} bits a weight: give more"
        )
    return {**outer, **presets.choices(preset, m.linears, left / m.weights, demands.uniform())}


def _picked(
    menu: Mapping[str, list[Candidate]], room: float, m: Matrices, demands: Demands
) -> dict[str, Choice]:
    """The choices that do the least damage within `room` bits, and what else is asked for."""
    limits = {} if demands.everywhere else demands.limits(m.linears, m.heads)
    if not limits:
        return {name: c.choice for name, c in solve(menu, room).items()}
    # an embedding is looked up, and a head keeps all its weights: neither is counted
    counted = {
        name: [replace(c, flops=0.0, nonzeros=0.0) for c in row] if name in m.outer else row
        for name, row in menu.items()
    }
    return {name: c.choice for name, c in program(counted, {"size": room, **limits}).items()}


def _trellis(bits: float) -> Choice:
    return Choice("trellis", bits, rank=None, factor_bits=None, damping=DAMPING)


def _outer(shape: tuple[int, int], bits: int) -> Choice:
    group = _OUTER_GROUP if shape[1] > _OUTER_GROUP else None
    return Choice("int", bits, group_size=group, feedback=False)


def _recipe(tensors: Mapping[str, Choice], preset: str, seed: int, survey: Survey | None) -> Recipe:
    measured = survey is not None
    return Recipe(tensors, preset, seed, shift=measured, importance=measured)


def _shape(source: Source, name: str, plain: bool = False) -> tuple[int, int]:
    a, b = source.shape(f"{name}.weight")
    return (b, a) if source.family.transposed and not plain else (a, b)
