"""How many weights meet a zero while a model runs: what its thresholds come to on a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

from torch import Tensor, nn

from sprue.runtime.linear import PackedLinear
from sprue.weights import threshold


@dataclass
class Zeros:
    """Counts by module name.

    Attributes:
        zero: inputs that counted as zero.
        seen: all inputs.
        weights: of the module's matrix.
    """

    zero: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, float]:
        """The share of zeros of every module that ran."""
        return {name: self.zero[name] / seen for name, seen in self.seen.items() if seen}

    @property
    def share(self) -> float | None:
        """Over all modules that ran, each by its weights; None: none has a threshold."""
        shares = self.shares
        total = sum(self.weights[name] for name in shares)
        return sum(self.weights[n] * p for n, p in shares.items()) / total if total else None


@contextmanager
def counted(model: nn.Module) -> Iterator[Zeros]:
    """For the time of a `with`, counts what every packed linear with a threshold receives."""
    found, hooks = Zeros(), []
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear) and "threshold" in module.layout:
            found.zero[name] = found.seen[name] = 0
            found.weights[name] = prod(module.layout["shape"])
            hooks.append(module.register_forward_pre_hook(_counter(found, name, module.layout)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _counter(
    found: Zeros, name: str, layout: Mapping[str, Mapping[str, float]]
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    limit = layout["threshold"]["value"]

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.zero[name] += int(threshold.dropped(inputs[0].float(), limit).sum())
        found.seen[name] += inputs[0].numel()

    return count
