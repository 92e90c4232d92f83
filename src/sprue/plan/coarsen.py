"""Which layers get coarser weights, so that a network's file loses a stated number of bytes.

Each layer is put on each grid alone; what its outputs lose, weighted by what a squared error of
each costs the network (its gradients squared), is what the grid is taken to cost. At one price for
a byte every layer takes the grid that pays best.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sprue.errors import BudgetError
from sprue.plan.prune import macs
from sprue.structure.adapt import Adapter, fittable
from sprue.structure.coarse import BITS, on_grid
from sprue.structure.readings import CLASSES, Answers, read

_FULL = 8
_TEXT = 600  # bytes that a coarser grid adds to the text of a file, for each layer
_SMALL = 2048  # weights, below which that is all there is to gain
_STEPS = 60  # of the search for a price


@dataclass(frozen=True)
class Layer:
    """A layer whose weights may become coarser.

    Attributes:
        name: of the module.
        bytes: of its weights by bits, with the text that they need.
        damage: by bits, nats for an example or what `Answers` measures in.
    """

    name: str
    bytes: Mapping[int, float]
    damage: Mapping[int, float]

    def at(self, price: float) -> int:
        """Bits that pay best at a price for a byte."""
        return min(self.bytes, key=lambda bits: self.damage[bits] + price * self.bytes[bits])


@torch.no_grad()
def _layer(name: str, weight: Any, H: Any, importance: Any) -> Layer:
    W = weight.detach().flatten(1)
    size, damage = {_FULL: float(W.numel())}, {_FULL: 0.0}
    for bits in BITS:
        D = on_grid(W, H, bits).to(H.dtype) - W
        size[bits] = W.numel() * bits / 8 + _TEXT
        damage[bits] = 0.5 * float((((D @ H) * D).sum(1).double() * importance).sum())
    return Layer(name, size, damage)


class Coarsener:
    """A network that is read once and made coarser to any size.

    Args:
        model: in eval mode; stays.
        batches: arguments of it, all of one shape.
        answers: what its outputs mean.
        seed: of the answers.
        progress: called after every layer.

    Raises:
        ValueError: a model that has no graph.
        BudgetError: it has no layer whose weights can become coarser.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[tuple[Any, ...]],
        answers: Answers = CLASSES,
        seed: int = 0,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._batches = model, batches
        ran = macs(model, batches[0])
        self._names = [n for n, m in model.named_modules() if n in ran and fittable(m)]
        large = [n for n in self._names if _weight(model, n).numel() >= _SMALL]
        if not large:
            raise BudgetError("no layer of this model is large enough to gain by coarser weights")
        readings = read(model, batches, large, answers, seed)
        self.layers = []
        for name in large:
            one = readings[name]
            self.layers.append(_layer(name, _weight(model, name), one.H, one.importance))
            progress()

    @property
    def most(self) -> int:
        """Bytes that can go."""
        return int(sum(one.bytes[_FULL] - min(one.bytes.values()) for one in self.layers))

    def pick(self, saved: float) -> dict[str, int]:
        """Layer -> bits of those that become coarser, so that so many bytes go.

        Raises:
            BudgetError: so many cannot go.
        """
        if saved > self.most:
            raise BudgetError(
                f"{saved:.0f} bytes cannot go: coarser weights save {self.most} at most"
            )
        low, high = 1e-15, 1e15
        for _ in range(_STEPS):
            price = (low * high) ** 0.5
            if self._saved(self._at(price)) < saved:
                low = price
            else:
                high = price
        return {name: bits for name, bits in self._at(high).items() if bits < _FULL}

    def _at(self, price: float) -> dict[str, int]:
        return {one.name: one.at(price) for one in self.layers}

    def _saved(self, bits: Mapping[str, int]) -> float:
        return sum(one.bytes[_FULL] - one.bytes[bits[one.name]] for one in self.layers)

    def coarse(self, bits: Mapping[str, int]) -> nn.Module:
        """A copy with such weights, the layers behind them fitted to what they gave before."""
        other = copy.deepcopy(self._model)
        Adapter(self._model, other, self._batches, bits=bits).run(self._names)
        return other


def _weight(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name).weight
