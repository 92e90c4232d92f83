"""Structured pruning under a budget of FLOPs: which units of which group leave.

Every group has a curve of predicted damage over the units that have left (`structure.repair`), in
nats for an example. At one price for a FLOP each group gives up as many units as pay; the price is
the one at which the network, counted exactly, meets its budget.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sprue.errors import BudgetError
from sprue.structure.adapt import Adapter, fittable
from sprue.structure.cut import together, without
from sprue.structure.readings import CLASSES, Answers, Reading, first, hooked, read
from sprue.structure.repair import Elimination, Reader, eliminate, refitted
from sprue.structure.ties import Place
from sprue.structure.units import Group, groups

Counts = NDArray[np.int64]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_STEPS = 100  # of the search for a price
_TRIED = 0.4  # of a group, gone while its damage is measured
_MEASURED = 4  # batches that it is measured on
_BELIEVED = 1e-2, 1e3  # sensitivities beyond these are noise
_NARROW = 4, 8  # widths below a vector that still save something


@dataclass(frozen=True)
class Part:
    """A group that can be cut.

    Attributes:
        group: its units.
        curve: in which order they leave, and what that costs: half of the weighted error.
        sensitivity: measured damage over the predicted.
    """

    group: Group
    curve: Elimination
    sensitivity: float = 1.0

    @cached_property
    def damage(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Nats for an example once 0, 1, 2 ... units have left, float64 [units]."""
        return self.sensitivity / 2 * np.array([0.0, *self.curve.damage])


@dataclass(frozen=True)
class Pruned:
    """What came of it.

    Attributes:
        model: a plain model of the class of the original.
        flops: of its layers, as a share of the original's.
        predicted: damage that was foreseen, nats for an example.
        left: layer that reads a group -> (units before, units left).
    """

    model: nn.Module
    flops: float
    predicted: float
    left: Mapping[str, tuple[int, int]]


class Pruner:
    """A network that is read once and cut to any budget.

    Args:
        model: in eval mode.
        batches: arguments of the model, to calibrate on; the first dimension holds the examples.
        answers: what the network's outputs mean.
        seed: of the answers.
        vector: channels that an engine computes at once: widths become multiples of it, or 4 or 8,
            since what lies between costs as much as the next multiple. 1: any width.
        tied: groups -> sets of them, by their places in the list: groups of a set have as many
            units each and keep as many, and what is in no set stays whole. None: each is free.
        progress: called after every group.

    Raises:
        ValueError: a model that has no graph.
        BudgetError: nothing can leave it.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[tuple[Any, ...]],
        answers: Answers = CLASSES,
        seed: int = 0,
        vector: int = 1,
        tied: Callable[[Sequence[Group]], Sequence[Sequence[int]]] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._vector = vector
        self.model, self._batches, self._answers = model, batches, answers
        self._macs = macs(model, batches[0])
        found = [g for g in groups(model, batches[0]) if g.read and _readable(model, g)]
        if tied is not None:
            sets = tied(found)
            chosen = [i for some in sets for i in some]
            ends = [0, *itertools.accumulate(len(some) for some in sets)]
            found = [found[i] for i in chosen]
            self._sets = list(itertools.starmap(range, itertools.pairwise(ends)))
        else:
            self._sets = [range(i, i + 1) for i in range(len(found))]
        if not found:
            raise BudgetError("no unit of this model can leave: all of it is tied to its outputs")
        readings = read(model, batches, _layers(found), answers, seed)
        self._outputs = self._answered(model)
        self.parts = []
        for group in found:
            part = Part(group, _curve(model, group, readings))
            self.parts.append(replace(part, sensitivity=self._sensitivity(part, readings)))
            progress()

    @torch.no_grad()
    def _answered(self, model: nn.Module) -> list[Tensor]:
        return [first(model(*batch)) for batch in self._batches[:_MEASURED]]

    def _sensitivity(self, part: Part, readings: Mapping[str, Reading]) -> float:
        """A part of the units gone and made up for: what that does over what was predicted.

        Errors of one channel have one sign over the positions of an example, which a mean over
        them adds up: predictions take them to be independent, and can be ten times too low.
        """
        count = max(1, round(_TRIED * len(part.group)))
        predicted = float(part.damage[count])
        other = _made_up(self.model, part, count, readings)
        pairs = zip(self._outputs, self._answered(other), strict=True)
        measured = np.mean([self._answers.apart(a, b) for a, b in pairs])
        return float(np.clip(measured / max(predicted, 1e-12), *_BELIEVED))

    def flops(self, leaving: Sequence[int]) -> float:
        """Of all layers with so many units gone of each part, as a share of the original's."""
        gone: dict[Place, int] = {}
        for part, count in zip(self.parts, leaving, strict=True):
            for place, indices in part.group.units[0].items():
                gone[place] = gone.get(place, 0) + count * len(indices)
        total, left = 0.0, 0.0
        for name, (cost, shape) in self._macs.items():
            total += cost
            sides = (1.0 - gone.get(Place(f"{name}.weight", d), 0) / shape[d] for d in (0, 1))
            left += cost * prod(sides)
        return left / total

    def least(self) -> float:
        """The share of FLOPs below which nothing goes."""
        return self.flops([int(allowed[-1]) for allowed in self._allowed])

    @cached_property
    def _allowed(self) -> list[Counts]:
        """How many units of each part may leave, ascending."""
        return [self._leaving(part) for part in self.parts]

    def _leaving(self, part: Part) -> Counts:
        """So many that what stays is as wide as an engine computes at once."""
        gone = np.arange(len(part.group))
        each = min(len(unit) for unit in part.group.units[0].values())
        width = (len(part.group) - gone) * each
        fits = (width % self._vector == 0) | np.isin(width, _NARROW) | (gone == 0)
        return gone[fits] if self._vector > 1 else gone

    def pick(self, share: float) -> list[int]:
        """How many units of each part leave, so that this share of the FLOPs is met.

        Raises:
            BudgetError: a share that cannot be met.
        """
        if not 0 < share <= 1:
            raise BudgetError(f"expected a share of FLOPs above 0 and up to 1, got {share:g}")
        if share < self.least():
            raise BudgetError(
                f"{share:.1%} of the FLOPs cannot be met: the least that this model can be cut to "
                f"is {self.least():.1%}"
            )
        saved = [self._saved(some) for some in self._sets]
        low, high = 1e-12, 1e12  # nats for all FLOPs of the original
        for _ in range(_STEPS):
            price = (low * high) ** 0.5
            if self.flops(self._spread(self._at(price, saved))) > share:
                low = price
            else:
                high = price
        return self._spread(self._back(self._at(high, saved), share))

    def prune(self, share: float, adapt: bool = True) -> Pruned:
        """The model at this share of its FLOPs, repaired by least squares if asked for."""
        counts = self.pick(share)
        chosen = [
            (part.group, part.curve.order[:count])
            for part, count in zip(self.parts, counts, strict=True)
        ]
        leaving = together(chosen)
        cut = without(self.model, leaving).eval()
        if adapt:
            some = [g for g, units in chosen if units]
            Adapter(self.model, cut, self._batches, leaving).run(_layers(some))
        left = {
            _layers([part.group])[0]: (len(part.group), len(part.group) - count)
            for part, count in zip(self.parts, counts, strict=True)
        }
        lost = sum(float(p.damage[n]) for p, n in zip(self.parts, counts, strict=True))
        return Pruned(cut, self.flops(counts), lost, left)

    def _spread(self, counts: Sequence[int]) -> list[int]:
        """Of each part, from those of each set."""
        found = [0] * len(self.parts)
        for some, count in zip(self._sets, counts, strict=True):
            for i in some:
                found[i] = count
        return found

    @cached_property
    def _damages(self) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        """Of each set, by how many units leave every part of it."""
        return [np.sum([self.parts[i].damage for i in some], 0) for some in self._sets]

    def _saved(self, some: Sequence[int]) -> float:
        """The share of FLOPs that one unit of each part of a set takes along, the rest whole."""
        return 1 - self.flops([int(k in some) for k in range(len(self.parts))])

    def _at(self, price: float, saved: Sequence[float]) -> list[int]:
        found = []
        for some, damage, s in zip(self._sets, self._damages, saved, strict=True):
            gone = self._allowed[some[0]]
            found.append(int(gone[np.argmin(damage[gone] - price * s * gone)]))
        return found

    def _back(self, counts: list[int], share: float) -> list[int]:
        """Units that the last step of the price took without need stay."""
        last = [
            float(damage[n] - damage[n - 1]) if n else 0.0
            for damage, n in zip(self._damages, counts, strict=True)
        ]
        order = sorted(range(len(counts)), key=lambda i: -last[i])
        for i in order:
            counts[i] = self._fewest(counts, i, share)
        return counts

    def _fewest(self, counts: Sequence[int], i: int, share: float) -> int:
        """Units of one set that still have to leave, the others being as they are."""
        allowed = self._allowed[self._sets[i][0]]
        low, high = 0, int(np.searchsorted(allowed, counts[i]))
        while low < high:
            middle = (low + high) // 2
            tried = [int(allowed[middle]) if k == i else c for k, c in enumerate(counts)]
            if self.flops(self._spread(tried)) <= share:
                high = middle
            else:
                low = middle + 1
        return int(allowed[high])


@torch.no_grad()
def _made_up(
    model: nn.Module, part: Part, count: int, readings: Mapping[str, Reading]
) -> nn.Module:
    """A copy that does not read the first units to leave, and makes up for them."""
    other = copy.deepcopy(model)
    for place in part.group.read:
        name = place.name.removesuffix(".weight")
        weight: Any = other.get_submodule(name).weight
        columns = _columns(part.group, place, weight)
        gone = columns[list(part.curve.order[:count])].flatten()
        keep = torch.ones(weight.flatten(1).shape[1], dtype=torch.bool)
        keep[gone] = False
        stay = keep.nonzero()[:, 0]
        V = torch.zeros_like(weight.flatten(1))
        V[:, stay] = refitted(weight.flatten(1), readings[name].H, stay)
        weight.copy_(V.view_as(weight))
    return other


@torch.no_grad()
def macs(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, tuple[float, tuple[int, int]]]:
    """Layer -> (multiplications for an example, (outputs, inputs) of its matrix)."""
    found: dict[str, tuple[float, tuple[int, int]]] = {}

    def count(name: str, module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, _LAYERS):
            weight: Any = module.weight
            positions = output.numel() / len(weight) / len(inputs[0])
            before = found.get(name, (0.0, (0, 0)))[0]
            found[name] = before + positions * weight.numel(), tuple(weight.shape[:2])

    with hooked(model, count):
        model(*inputs)
    return found


def _layers(some: Sequence[Group]) -> list[str]:
    """The layers that read these groups."""
    names = (place.name.removesuffix(".weight") for group in some for place in group.read)
    return list(dict.fromkeys(names))


def _readable(model: nn.Module, group: Group) -> bool:
    """Whether all that read it are layers whose inputs can be taken apart."""
    for place in group.read:
        owner, _, local = place.name.rpartition(".")
        if local != "weight" or place.dim != 1 or not fittable(model.get_submodule(owner)):
            return False
    return True


def _curve(model: nn.Module, group: Group, readings: Mapping[str, Reading]) -> Elimination:
    readers = []
    for place in group.read:
        name = place.name.removesuffix(".weight")
        weight: Any = model.get_submodule(name).weight
        columns = _columns(group, place, weight)
        one = readings[name]
        readers.append(Reader(weight.detach().flatten(1), one.H, one.importance, columns))
    return eliminate(readers)


def _columns(group: Group, place: Place, weight: Tensor) -> Tensor:
    """The columns in which a layer reads each unit, int64 [units, k]: all places of a kernel."""
    under = prod(weight.shape[2:])
    indices = torch.tensor(np.stack([unit[place] for unit in group.units]))
    return (indices[:, :, None] * under + torch.arange(under)).flatten(1)
