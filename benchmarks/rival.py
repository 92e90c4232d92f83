"""Simpler predictions of damage, which an audit's are compared with.

    error       the share of the mean square of a layer's output that is lost
    kfac        1/2 sum_r E[sum_p g_rp^2] (D H D^T)_rr, as `structure.readings` explains
    mean apart  the same of the inputs' covariance, and 1/2 sum_r E[(sum_p g_rp)^2] (D m)_r^2 of
                their mean m, whose errors have one sign at all positions p

With the gradients of answers that are drawn, or of normal vectors with the covariance of those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sprue.data.examples import Examples
from sprue.models.nets import Net
from sprue.plan.inspect import pull_of
from sprue.plan.meaning import answers_of
from sprue.structure import matrices
from sprue.structure.gauges import Pull
from sprue.structure.readings import first

PULLS = ("drawn", "normal")
_BATCH, _DRAWS, _EXAMPLES = 16, 4, 256


class Reading:
    """Sums over examples: of a layer's inputs, and of the gradients at its outputs."""

    def __init__(self) -> None:
        self.H: Any = 0
        self.m: Any = 0
        self.each: Any = 0  # of sum_p g^2
        self.together: Any = 0  # of (sum_p g)^2
        self.positions = 0
        self.examples = 0

    def inputs(self, module: nn.Module, x: Tensor, y: Tensor) -> None:
        count = y.numel() // len(matrices.matrix(module))
        columns = matrices.sampled(module, x, torch.arange(count))[0]
        self.H, self.m = self.H + columns.T @ columns, self.m + columns.sum(0)
        self.positions += count

    def gradient(self, module: nn.Module, g: Tensor) -> None:
        rows = matrices.channels(module, g).view(len(g), -1, len(matrices.matrix(module)))
        self.each = self.each + rows.square().sum((0, 1))
        self.together = self.together + rows.sum(1).square().sum(0)
        self.examples += len(g)


def read(net: Net, examples: Examples, how: str) -> dict[str, Reading]:
    """Readings of all layers without groups; `how` is one of PULLS."""
    some = examples.sample(_EXAMPLES, 0)
    plain = answers_of(net).pull
    pull: Pull = pull_of(net) if how == "normal" else lambda y, batch, g: plain(y, g)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Reading] = {}
    hooks = [
        module.register_forward_hook(_seen(name, found))
        for name, module in net.module.named_modules()
        if _known(module)
    ]
    net.module.requires_grad_(False)
    starts = [
        module.register_forward_hook(lambda _, __, y: y.requires_grad_() * 1)
        for module in net.module.modules()
        if isinstance(module, nn.Embedding)
    ]
    for batch in some.batches(_BATCH):
        entered = [x.detach().requires_grad_(x.is_floating_point()) for x in batch]
        outputs = first(net.module(*entered))
        for draw in range(_DRAWS):
            pull(outputs, batch, generator).backward(retain_graph=draw + 1 < _DRAWS)
    for hook in (*hooks, *starts):
        hook.remove()
    net.module.requires_grad_(True)
    return found


def _known(module: nn.Module) -> bool:
    known = matrices.is_layer(module) and not matrices.is_embedding(module)
    return known and matrices.groups(module) == 1


def _seen(name: str, found: dict[str, Reading]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def seen(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        one = found.setdefault(name, Reading())
        with torch.no_grad():
            one.inputs(module, args[0].detach(), output)
        returned = output.clone()
        output.register_hook(lambda g: one.gradient(module, g))
        return returned

    return seen


def predictions(
    net: Net, layer: str, D: Tensor, readings: Mapping[str, Mapping[str, Reading]]
) -> dict[str, float]:
    """Of a change of a layer; empty for layers that nothing is said of."""
    found: dict[str, float] = {}
    for how, some in readings.items():
        one = some.get(layer)
        if one is None or not one.examples:
            continue
        H, m = one.H / one.positions, one.m / one.positions
        error = ((D @ H) * D).sum(1)
        W = matrices.matrix(net.module.get_submodule(layer))
        each, together = one.each / one.examples, one.together / one.examples
        shift = (D @ m).square()
        found["error"] = float(error.sum() / ((W @ H) * W).sum())
        found[f"kfac, {how}"] = float((each * error).sum()) / 2
        apart = (each * (error - shift).clamp(min=0)).sum() + (together * shift).sum()
        found[f"mean apart, {how}"] = float(apart) / 2
    return found
