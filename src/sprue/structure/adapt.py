"""Layers of a network that was cut, fitted to what they gave before, one after the other.

Each layer gets, of what the smaller network now gives it, the affine map that comes nearest to its
outputs in the original. So it makes up for what left, and for what the layers before it still get
wrong. What is added to the outputs goes into the bias, or into the mean of the norm that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sprue.structure.readings import columns_of, hooked, rows_of

_DAMPING = 1e-3  # at least, as a share of the mean diagonal
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class _StopError(Exception):
    """What a layer gets and gives is known."""


@dataclass
class _Moments:
    """Sums over positions: of inputs, of outputs, and of both together."""

    count: int = 0
    x: Any = 0
    y: Any = 0
    xx: Any = 0
    yx: Any = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        self.count += len(x)
        self.x, self.y = self.x + x.sum(0), self.y + y.sum(0)
        self.xx, self.yx = self.xx + x.T @ x, self.yx + y.T @ x

    def fit(self, W: Tensor, shifted: bool) -> tuple[Tensor, Tensor]:
        """(V, c): V x + c is nearest to y, with a ridge that pulls V towards W; c is 0 if asked."""
        xx, yx = self.xx.double() / self.count, self.yx.double() / self.count
        x, y = self.x.double() / self.count, self.y.double() / self.count
        if shifted:
            xx, yx = xx - torch.outer(x, x), yx - torch.outer(y, x)
        damping = max(_DAMPING, len(xx) / self.count)
        ridge = damping * float(xx.diagonal().mean()) + 1e-12
        root = torch.linalg.cholesky(xx + ridge * torch.eye(len(xx), dtype=xx.dtype))
        V = W.double() + torch.cholesky_solve((yx - W.double() @ xx).T, root).T
        return V, (y - V @ x) if shifted else torch.zeros_like(y)


@dataclass
class Adapter:
    """The layers of `cut`, fitted to those of `original`.

    Attributes:
        original: what was cut; stays.
        cut: what is left of it; its layers are changed.
        batches: arguments of both.
        progress: called after every layer.
    """

    original: nn.Module
    cut: nn.Module
    batches: Sequence[tuple[Any, ...]]
    progress: Callable[[], None] = lambda: None
    _norms: dict[str, str] = field(default_factory=dict)

    @torch.no_grad()
    def run(self, names: Sequence[str]) -> None:
        """Fit the named layers (Linear, or convolutions with groups of 1), as the network runs."""
        order, self._norms = self._order(set(names))
        for name in order:
            self._fit(name)
            self.progress()

    def _order(self, names: set[str]) -> tuple[list[str], dict[str, str]]:
        """Layers as they first run; layer -> the norm that gets its outputs and nothing else."""
        order: list[str] = []
        given: dict[int, str] = {}
        norms: dict[str, str] = {}
        kept: list[Tensor] = []  # so that no two tensors have one address

        def ran(name: str, module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(module, _NORMS) and id(args[0]) in given:
                norms[given[id(args[0])]] = name
            if name in names:
                if name in order:
                    norms.pop(name, None)
                    return
                order.append(name)
                given[id(output)] = name
                kept.append(output)

        with hooked(self.cut, ran):
            self.cut(*self.batches[0])
        return order, norms

    def _fit(self, name: str) -> None:
        module, moments = self.cut.get_submodule(name), _Moments()
        for batch in self.batches:
            _, target = self._seen(self.original, name, batch)
            x, _ = self._seen(self.cut, name, batch)
            moments.add(columns_of(module, x), rows_of(module, target))
        weight: Any = module.weight
        norm = self._norms.get(name)
        V, shift = moments.fit(weight.flatten(1), module.bias is not None or norm is not None)
        weight.copy_(V.view_as(weight).to(weight.dtype))
        if module.bias is not None:
            module.bias.copy_(shift)  # type: ignore[operator]
        elif norm is not None:
            mean: Any = self.cut.get_submodule(norm).running_mean
            mean.sub_(shift.to(mean.dtype))

    def _seen(self, model: nn.Module, name: str, batch: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """What a layer gets and gives; what comes after it does not run."""
        found: list[Tensor] = []

        def take(_: nn.Module, args: Any, output: Tensor) -> None:
            found.extend((args[0], output))
            raise _StopError

        hook = model.get_submodule(name).register_forward_hook(take)
        try:
            model(*batch)
        except _StopError:
            pass
        finally:
            hook.remove()
        return found[0], found[1]
