"""Which number of a Hugging Face config says the sizes of which parameters.

Found out by building the network, without memory for its weights, with another number in its place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Number:
    """A number of a config.

    Attributes:
        name: of the field.
        at: its place in a list; None: the field is the number.
        value: as it is.
        places: (parameter or buffer, dimension) whose sizes are multiples of it, and change with
            it; no other size does.
    """

    name: str
    at: int | None
    value: int
    places: frozenset[tuple[str, int]]

    def put(self, config: Any, value: int) -> None:
        """Into a config, in place."""
        if self.at is None:
            setattr(config, self.name, value)
            return
        values = list(getattr(config, self.name))
        values[self.at] = value
        setattr(config, self.name, values)


def numbers_of(model: nn.Module) -> list[Number]:
    """Those of a model's config that sizes of parameters follow, the fewest places first.

    Args:
        model: of `transformers`, with `config`.
    """
    config: Any = model.config
    before = shapes_of(type(model), config)
    found = []
    for number in _candidates(config):
        changed = copy.deepcopy(config)
        number.put(changed, _other(number.value))
        try:
            after = shapes_of(type(model), changed)
        except Exception:  # what a class says of a config that it cannot be built from
            continue
        places = _followed(before, after, number.value)
        if places:
            found.append(replace(number, places=places))
    return sorted(found, key=lambda number: len(number.places))


def told_with(model: nn.Module, cut: Shapes) -> dict[str, Any] | None:
    """The config of a model whose parameters have other sizes now, None where no config says them.

    Args:
        model: the original, with its config.
        cut: name -> shape of every parameter and buffer of what became of it.
    """
    config: Any = copy.deepcopy(model.config)
    after = shapes_of(type(model), config)
    for number in numbers_of(model):
        name, dim = min(number.places)
        # a size that an earlier number has said is not said twice: heads, then the width of each
        if name in cut and cut[name][dim] != after[name][dim]:
            value, rest = divmod(number.value * cut[name][dim], after[name][dim])
            if rest:
                return None
            number.put(config, value)
            try:
                after = shapes_of(type(model), config)
            except Exception:  # as above
                return None
    same = all(after.get(name) == tuple(shape) for name, shape in cut.items())
    told: dict[str, Any] = config.to_dict()
    return told if same else None


def shapes_of(kind: type[nn.Module], config: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter and buffer of a model of a class, built without memory."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = kind(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _candidates(config: Any) -> Iterator[Number]:
    for name, value in config.to_dict().items():
        several = isinstance(value, (list, tuple))
        for i, one in enumerate(value if several else [value]):
            if isinstance(one, int) and not isinstance(one, bool) and one > 1:
                yield Number(name, i if several else None, one, frozenset())


def _other(value: int) -> int:
    return value // 2 if value % 2 == 0 else value - 1


def _followed(before: Shapes, after: Shapes, value: int) -> frozenset[tuple[str, int]]:
    """What changed in proportion; nothing where anything changed otherwise."""
    if set(before) != set(after):
        return frozenset()
    places = set()
    for name, old in before.items():
        if len(old) != len(after[name]):
            return frozenset()
        for dim, (a, b) in enumerate(zip(old, after[name], strict=True)):
            if a != b and b * value != a * _other(value):
                return frozenset()
            if a != b:
                places.add((name, dim))
    return frozenset(places)
