"""A ratio of zeros shared out over the linears by what each is predicted to suffer.

The survey says what zeros break in every matrix at a few levels; between them damage is
interpolated. What all matrices break together is least when the next zero costs the same in each,
which the knapsack of `plan.solve` finds over finely spaced candidates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from sprue.errors import BudgetError, InputError
from sprue.plan.demands import DAMPING, Demands
from sprue.plan.presets import Shape, Shapes
from sprue.plan.recipe import Recipe
from sprue.plan.solve import Candidate, solve
from sprue.plan.survey import Survey
from sprue.weights import patterns
from sprue.weights.choice import Choice

PRESET = "sweep"  # the preset's name in recipes
STEPS = 10  # points of percent between the ratios of a row
_LEVELS = (0.1, 0.25, 0.5, 0.7, 0.85, 0.96)  # tried on every matrix
_FINE = 100  # candidates between no zeros and the highest level
_ROW = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%?\s*\.\.\s*(\d+(?:\.\d+)?)\s*%\s*")
_FAMILY = re.compile(r"N:([1-9][0-9]{0,2})")


@dataclass(frozen=True)
class Trial(Demands):
    """What the survey tries on every matrix for a sweep: zeros alone, at a row of levels.

    Attributes:
        forms: patterns, as `forms` gives them.
    """

    forms: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(not _own(form) for form in self.forms)

    def menu(self, shape: Shape) -> list[Choice]:
        """The levels of every pattern that does not say itself how many zeros there are."""
        stated = [form for form in self.forms if not _own(form)]
        return [choice(form, level) for form in stated for level in _LEVELS]


@dataclass(frozen=True)
class Scan:
    """What is kept of a survey.

    Attributes:
        importance: module name -> float64 [out], what a squared error of each output row costs.
        damage: pattern -> module name -> level -> predicted KL, nats per token.
    """

    importance: Mapping[str, Tensor]
    damage: Mapping[str, Mapping[str, Mapping[float, float]]]

    @classmethod
    def of(cls, survey: Survey) -> Scan:
        """From a survey that was made with a `Trial`."""
        damage: dict[str, dict[str, dict[float, float]]] = {}
        for name, tried in survey.zeros.items():
            weight = 0.5 * survey.sensitivity.get(name, 1.0)
            for choice, outlook in tried:
                row = damage.setdefault(choice.pattern or "", {}).setdefault(name, {})
                row[choice.sparsity] = weight * outlook.broken
        return cls(survey.importance, damage)

    @property
    def survey(self) -> Survey:
        """What a walk asks of it."""
        return Survey({}, self.importance, {})

    def save(self, file: Path) -> None:
        """Write it, all of it or nothing."""
        tensors = {f"importance {name}": row for name, row in self.importance.items()}
        for pattern, matrices in self.damage.items():
            for name, row in matrices.items():
                pairs = torch.tensor(sorted(row.items()), dtype=torch.float64)
                tensors[f"damage {pattern} {name}"] = pairs
        partial = file.with_name(f"{file.name}.partial")
        partial.write_bytes(save(tensors))
        partial.replace(file)

    @classmethod
    def read(cls, file: Path) -> Scan | None:
        """What `save` wrote; None: nothing, or it is damaged."""
        try:
            tensors = load(file.read_bytes())
        except (OSError, SafetensorError):
            return None
        importance: dict[str, Tensor] = {}
        damage: dict[str, dict[str, dict[float, float]]] = {}
        for key, tensor in tensors.items():
            kind, *place = key.split(" ")
            if kind == "importance":
                importance[place[0]] = tensor
            else:
                damage.setdefault(place[0], {})[place[1]] = dict(tensor.tolist())
        return cls(importance, damage)


@dataclass(frozen=True)
class Share:
    """Zeros shared out.

    Attributes:
        choices: module name -> how it is pruned; one that keeps all its weights is not named.
        ratio: of zeros over all linears, as they come out.
        predicted: KL of the original from the result, nats per token; None where no survey said.
    """

    choices: Mapping[str, Choice]
    ratio: float
    predicted: float | None

    def recipe(self, seed: int) -> Recipe:
        """The recipe that carries it out."""
        return Recipe(self.choices, PRESET, seed, shift=False, importance=True)


def choice(pattern: str, sparsity: float = 0.0) -> Choice:
    """How a matrix gets its zeros: mask and weights found jointly, what stays at its own bits."""
    return Choice("raw", 16, damping=DAMPING, pattern=pattern, sparsity=sparsity)


def row(text: str) -> tuple[float, ...]:
    """The ratios that "0..90%" (in steps of 10 points), "50%" or "30%,50%,70%" name, in order.

    Raises:
        InputError: another form.
        BudgetError: a ratio that is not below 100%.
    """
    match = _ROW.fullmatch(text)
    if match is not None:
        low, high = float(match[1]), float(match[2])
        found = [low + STEPS * i for i in range(int((high - low) // STEPS) + 1)]
    else:
        found = [_percent(part, text) for part in text.split(",")]
    if not found:
        raise InputError(f"the ratios {text!r} are none: give the lower end first, as 0..90%")
    if not max(found) < 100:
        raise BudgetError(f"a ratio of zeros must lie below 100%, received {text!r}")
    return tuple(sorted({round(value / 100, 9) for value in found}))


def _percent(part: str, text: str) -> float:
    try:
        value = float(part.strip().removesuffix("%")) * (1 if part.strip().endswith("%") else 100)
    except ValueError:
        value = float("nan")
    if not value >= 0:
        raise InputError(f"expected ratios such as 0..90%, 50% or 30%,50%,70%, received {text!r}")
    return value


def points(pattern: str, ratios: Sequence[float]) -> list[tuple[str, float]]:
    """(pattern, ratio of zeros) of the points that a pattern stands for, fewest zeros first.

    Args:
        pattern: "unstructured" and "RxC" take the row of ratios; "2:4" is one point, and the
            letter in "N:4" stands for every N: 3:4, 2:4, 1:4.
        ratios: the row; 0, which changes nothing, is no point.

    Raises:
        InputError: another form.
    """
    family = _FAMILY.fullmatch(pattern)
    if family is not None:
        group = int(family[1])
        if group < 2:
            raise InputError(f"of the pattern {pattern!r} nothing would be zero: take N:4")
        return [(f"{n}:{group}", 1 - n / group) for n in range(group - 1, 0, -1)]
    try:
        own = patterns.parse(pattern).sparsity
    except ValueError as error:
        raise InputError(f"{error}; N:4 stands for 3:4, 2:4 and 1:4") from error
    return [(pattern, own)] if own else [(pattern, ratio) for ratio in ratios if ratio > 0]


def everywhere(pattern: str, shapes: Shapes) -> Share:
    """The zeros of an N:M pattern, which every matrix bears alike.

    Args:
        pattern: such as "2:4".
        shapes: module name -> (out, in).
    """
    parsed = patterns.parse(pattern)
    weights = sum(prod(shape) for shape in shapes.values())
    zeros = sum(prod(shape) * patterns.zeros_of(parsed, 0.0, shape[1]) for shape in shapes.values())
    return Share(dict.fromkeys(shapes, choice(pattern)), zeros / weights, None)


def shared(pattern: str, ratio: float, shapes: Shapes, scan: Scan) -> Share:
    """`ratio` of all weights zero, each matrix bearing what does the least predicted damage.

    Args:
        pattern: "unstructured", or blocks such as "16x1".
        ratio: share of zeros over all linears, 0 to below 1; met to the weight, but for blocks,
            which it is met to the block with.
        shapes: module name -> (out, in) of the linears.
        scan: with this pattern.

    Raises:
        BudgetError: more zeros than the levels that were tried reach.
    """
    weights = sum(prod(shape) for shape in shapes.values())
    most = sum(int(_LEVELS[-1] * prod(shape)) for shape in shapes.values())
    asked = round(ratio * weights)
    if asked > most:
        raise BudgetError(
            f"{100 * ratio:g}% of zeros were asked for; at most {100 * most / weights:.4g}% are "
            "shared out: ask for less, or take an N:M pattern"
        )
    curves = {name: Curve.of(scan.damage[pattern][name]) for name in shapes}
    menu = {name: list(_candidates(curves[name], prod(shapes[name]))) for name in shapes}
    picked = solve(menu, weights - asked)
    zeros = {name: prod(shapes[name]) - round(c.nonzeros) for name, c in picked.items()}
    _give_back(zeros, sum(zeros.values()) - asked, curves, shapes)
    chosen = {
        name: choice(pattern, count / prod(shapes[name])) for name, count in zeros.items() if count
    }
    predicted = sum(curves[name](count / prod(shapes[name])) for name, count in zeros.items())
    return Share(chosen, sum(zeros.values()) / weights, predicted)


@dataclass(frozen=True)
class Curve:
    """The predicted damage of one matrix, in nats per token, by its share of zeros.

    The square root is interpolated, which is nearly straight: an error is about proportional to
    the weights that go. By Fritsch and Carlson's monotone cubic, so that more zeros never seem to
    do less damage.

    Attributes:
        root: share of zeros -> square root of the damage.
    """

    root: PchipInterpolator

    @classmethod
    def of(cls, tried: Mapping[float, float]) -> Curve:
        """From level -> damage."""
        levels = sorted(tried)
        damage = np.maximum.accumulate([max(tried[level], 0.0) for level in levels])
        return cls(PchipInterpolator([0.0, *levels], np.sqrt([0.0, *damage])))

    def __call__(self, share: float) -> float:
        return float(self.root(share)) ** 2

    def row(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """The damage at many shares at once."""
        return np.asarray(self.root(shares)) ** 2


def _candidates(curve: Curve, weights: int) -> Iterator[Candidate]:
    counts = [int(weights * _LEVELS[-1] * i / _FINE) for i in range(_FINE + 1)]
    damages = curve.row(np.array(counts) / weights)
    for count, damage in zip(counts, damages, strict=True):
        kept = float(weights - count)
        yield Candidate(Choice("raw", 16), kept, float(damage), 2 * kept, kept)


def _give_back(
    zeros: dict[str, int], surplus: int, curves: Mapping[str, Curve], shapes: Shapes
) -> None:
    """Fewer zeros by `surplus`, where they hurt most: steps of candidates overshoot a little."""
    while surplus > 0:
        fewer = {name: min(surplus, count) for name, count in zeros.items() if count}
        relief = {
            name: _relief(curves[name], zeros[name], less, prod(shapes[name]))
            for name, less in fewer.items()
        }
        name = max(relief, key=lambda name: relief[name])
        zeros[name] -= fewer[name]
        surplus -= fewer[name]


def _relief(curve: Curve, zeros: int, fewer: int, weights: int) -> float:
    return curve(zeros / weights) - curve((zeros - fewer) / weights)


def _own(pattern: str) -> bool:
    """Whether a pattern itself says how many zeros there are."""
    return patterns.parse(pattern).sparsity is not None
