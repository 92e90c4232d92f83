"""Layers of a network that was cut, fitted to what they gave before, one after the other.

Each layer gets, of what the smaller network now gives it, the affine map that comes nearest to its
outputs in the original. So it makes up for what left, and for what the layers before it still get
wrong. What is added to the outputs goes into the bias, or into the mean of the norm that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from sprue.structure.coarse import on_grid
from sprue.structure.cut import Leaving
from sprue.structure.program import Pass, Program
from sprue.structure.readings import columns_of, rows_of, thinned
from sprue.structure.ties import Place

_DAMPING = 1e-3  # at least, as a share of the mean diagonal
_PRODUCTS = ("conv1d", "conv2d", "convolution", "linear")


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

    def fit(self, W: Tensor, shifted: bool, bits: int | None = None) -> tuple[Tensor, Tensor]:
        """(V, c): V x + c is nearest to y, with a ridge that pulls V towards W; c is 0 if asked.

        With `bits`, V lies on a grid of so many for each of its rows.
        """
        xx, yx = self.xx.double() / self.count, self.yx.double() / self.count
        x, y = self.x.double() / self.count, self.y.double() / self.count
        if shifted:
            xx, yx = xx - torch.outer(x, x), yx - torch.outer(y, x)
        damping = max(_DAMPING, len(xx) / self.count)
        ridge = damping * float(xx.diagonal().mean()) + 1e-12
        root = torch.linalg.cholesky(xx + ridge * torch.eye(len(xx), dtype=xx.dtype))
        V = W.double() + torch.cholesky_solve((yx - W.double() @ xx).T, root).T
        if bits is not None:
            V = on_grid(V, xx, bits)
        return V, (y - V @ x) if shifted else torch.zeros_like(y)


@dataclass
class Adapter:
    """The layers of `cut`, fitted to those of `original`.

    Both networks run once, all batches side by side, and wait at each layer until it is fitted.

    Attributes:
        original: what was cut; stays.
        cut: what is left of it; its layers are changed.
        batches: arguments of both, all of one shape.
        leaving: what was cut, as `structure.cut` takes it.
        bits: layer -> of the grid that its weights are put on; those that are not there stay free.
        progress: called after every layer.
    """

    original: nn.Module
    cut: nn.Module
    batches: Sequence[tuple[Any, ...]]
    leaving: Leaving = field(default_factory=dict)
    bits: Mapping[str, int] = field(default_factory=dict)
    progress: Callable[[], None] = lambda: None

    @torch.no_grad()
    def run(self, names: Sequence[str]) -> None:
        """Fit the named layers (Linear, or convolutions with groups of 1), as the network runs.

        A layer that runs more than once stays as it is.
        """
        whole, left = (Program(model, self.batches[0]) for model in (self.original, self.cut))
        pairs = _places(whole, left, names)
        theirs = [Pass(whole, batch) for batch in self.batches]
        mine = [Pass(left, batch) for batch in self.batches]
        for name, (a, b) in pairs.items():
            module, moments = self.cut.get_submodule(name), _Moments()
            rows = self._rows(name)
            for original, cut in zip(theirs, mine, strict=True):
                target = rows_of(module, original.past(a))
                cut.until(b)
                x = columns_of(module, cut.value(b.args[0]))
                some = thinned(x.shape[1], len(x))
                moments.add(x[some], (target if rows is None else target[:, rows])[some])
            self._fit(module, moments, _norm_after(left, b), self.bits.get(name))
            self.progress()

    def _rows(self, name: str) -> Tensor | None:
        """Outputs of a layer that are left; None: all."""
        gone = self.leaving.get(Place(f"{name}.weight", 0))
        if gone is None:
            return None
        weight: Any = self.original.get_submodule(name).weight
        return torch.from_numpy(np.setdiff1d(np.arange(len(weight)), gone))

    def _fit(
        self, module: nn.Module, moments: _Moments, norm: str | None, bits: int | None
    ) -> None:
        weight: Any = module.weight
        shifted = module.bias is not None or norm is not None
        V, shift = moments.fit(weight.flatten(1), shifted, bits)
        weight.copy_(V.view_as(weight).to(weight.dtype))
        if module.bias is not None:
            module.bias.copy_(shift)  # type: ignore[operator]
        elif norm is not None:
            mean = self.cut.get_buffer(norm)
            mean.sub_(shift.to(mean.dtype))


def fittable(module: nn.Module) -> bool:
    """Whether a layer's inputs can be told apart: Linear, and plain convolutions of images."""
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _places(
    whole: Program, left: Program, names: Sequence[str]
) -> dict[str, tuple[fx.Node, fx.Node]]:
    """Layer -> where both programs multiply with its weights, in the order in which they do."""
    found = {}
    for name in names:
        a, b = (_multiplied(program, f"{name}.weight") for program in (whole, left))
        if a is not None and b is not None:
            found[name] = (a, b)
    place = {node: i for i, node in enumerate(left.nodes)}
    return dict(sorted(found.items(), key=lambda pair: place[pair[1][1]]))


def _multiplied(program: Program, weight: str) -> fx.Node | None:
    """The only node that reads a weight, where it is a product."""
    node = program.parameter(weight)
    if node is None or len(node.users) != 1:
        return None
    user = next(iter(node.users))
    name = str(user.target).removeprefix("aten.").split(".")[0]
    return user if name in _PRODUCTS and user.args[1] is node else None


def _norm_after(program: Program, node: fx.Node) -> str | None:
    """The running mean that a shift of these outputs can go into: nothing else may read either."""
    if len(node.users) != 1:
        return None
    norm = next(iter(node.users))
    if "batch_norm" not in str(norm.target) or norm.args[0] is not node:
        return None
    for argument in norm.args[1:]:
        name = program.name(argument)
        if name is not None and name.endswith("running_mean"):
            assert isinstance(argument, fx.Node)
            return name if len(argument.users) == 1 else None
    return None
