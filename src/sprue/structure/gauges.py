"""What can be read off the layers of a network while it runs on examples.

`profile` says which layers run, `moments` what they read, `damages` what changes of their weights
would cost: half of the mean over examples of (sum over positions of g^T D x)^2, with g the gradient
at a layer's output of a random vector whose covariance is the Fisher information of the answers.
That is the quadratic form of the whole Fisher matrix of a layer's weights: unlike with the factors
of K-FAC (Martens and Grosse 2015, section 3), errors that add up over the positions or the outputs
of an example do so here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sprue.structure import matrices
from sprue.structure.readings import first

Batch = tuple[Any, ...]
Pull = Callable[[Tensor, Batch, torch.Generator], Tensor]


@dataclass(frozen=True)
class Profile:
    """How a layer runs.

    Attributes:
        positions: of an example, over all times that the layer runs.
        apart: whether the first dimension of what it is given grows with the examples.
    """

    positions: float
    apart: bool


@dataclass(frozen=True)
class Moments:
    """Of what a layer reads.

    Attributes:
        H: float32 [groups, in, in], the mean over positions of x x^T; of very wide layers
            [groups, in], its diagonal; of an embedding [1, ids], the share of the positions that
            look up each.
        outputs: float32 [out, out], the mean of y y^T without the bias, of a layer with groups;
            None of others, for which it is W H W^T.
        mean: float32 [groups, in], of x; of an embedding as H.
        positions: that were taken.
    """

    H: Tensor
    outputs: Tensor | None
    mean: Tensor
    positions: int


@dataclass(frozen=True)
class Damages:
    """What changes of one layer cost.

    Attributes:
        nats: float64 [changes], for an example.
        spread: float64 [changes], the standard error of each.
        gradients: float64 [out], the mean over examples of the sum over positions of g^2.
    """

    nats: Tensor
    spread: Tensor
    gradients: Tensor


@torch.no_grad()
def profile(model: nn.Module, batch: Batch) -> dict[str, Profile]:
    """The layers that run, in the order in which they first do.

    Args:
        model: in eval mode.
        batch: its arguments, one example or two.
    """
    sizes: list[dict[str, tuple[float, int]]] = []
    counts = sorted({1, len(batch[0])})
    for count in counts:
        found: dict[str, tuple[float, int]] = {}

        def ran(name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
            wide = matrices.matrix(module).shape[0]
            before = found.get(name, (0.0, 0))[0]  # noqa: B023
            found[name] = before + y.numel() / wide, len(x)  # noqa: B023

        with _hooked(model, ran):
            model(*(a[:count] for a in batch))
        sizes.append(found)
    last = sizes[-1]
    return {
        name: Profile(positions / counts[-1], length == sizes[0][name][1] * counts[-1])
        for name, (positions, length) in last.items()
    }


@torch.no_grad()
def moments(
    model: nn.Module,
    batches: Iterable[Batch],
    shares: Mapping[str, float],
    seed: int,
    real: Callable[[Batch], Tensor | None] = lambda batch: None,
    widest: int = 8192,
) -> dict[str, Moments]:
    """Moments of some layers.

    Args:
        model: in eval mode.
        batches: its arguments.
        shares: layer -> the share of its positions that is taken, at random.
        seed: of that.
        real: a batch -> bool [examples, tokens], which of them are no padding; positions of that
            shape which are padding are not taken.
        widest: columns of which products are taken with one another.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {name: _Sums(share, widest) for name, share in shares.items()}
    mask: Tensor | None = None

    def ran(name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        if name in sums:
            sums[name].add(module, x, _places(sums[name].share, x, y, mask, module, generator))

    with _hooked(model, ran):
        for batch in batches:
            mask = real(batch)
            model(*batch)
    return {name: one.moments() for name, one in sums.items() if one.positions}


def damages(
    model: nn.Module,
    batches: Iterable[Batch],
    changes: Mapping[str, Tensor],
    profiles: Mapping[str, Profile],
    pull: Pull,
    *,
    draws: int,
    seed: int,
    tied: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Damages]:
    """What changes of some layers would cost, each alone.

    Args:
        model: in eval mode; its parameters get no gradients.
        batches: its arguments.
        changes: layer -> [changes, out, in], what is added to its matrix.
        profiles: of the layers.
        pull: (outputs, batch) -> minus the log likelihood of a drawn answer, or anything else
            whose gradient has its Fisher information for a covariance, summed over examples.
        draws: of it, for every example.
        seed: of these.
        tied: layer -> others with the same weight, which change with it.

    Raises:
        ValueError: a layer's inputs are written over before the gradients come.
    """
    generator = torch.Generator().manual_seed(seed)
    named = {name: [name, *(tied or {}).get(name, ())] for name in changes}
    taps = {
        name: _Tap(
            D,
            all(profiles[n].apart for n in named[name]),
            matrices.is_embedding(model.get_submodule(name)),
        )
        for name, D in changes.items()
    }
    watched = [(n, taps[name]) for name, some in named.items() for n in some]
    with _frozen(model), torch.enable_grad(), _tapped(model, watched):
        for batch in batches:
            entered = [a.detach().requires_grad_(a.is_floating_point()) for a in batch]
            for tap in taps.values():
                tap.examples = len(batch[0])
            outputs = first(model(*entered))
            for draw in range(draws):
                loss = pull(outputs, batch, generator)
                loss.backward(retain_graph=draw + 1 < draws)  # type: ignore[no-untyped-call]
                for tap in taps.values():
                    tap.drawn()
    return {name: tap.damages() for name, tap in taps.items() if tap.count}


class _Sums:
    def __init__(self, share: float, widest: int) -> None:
        self.share, self._widest = share, widest
        self.positions = 0
        self._H: Any = 0
        self._mean: Any = 0
        self._outputs: Any = None

    def add(self, module: nn.Module, x: Tensor, places: Tensor) -> None:
        self.positions += len(places)
        if matrices.is_embedding(module):
            ids = matrices.matrix(module).shape[1]
            self._H = self._H + torch.bincount(x.flatten()[places], minlength=ids).float()[None]
            self._mean = self._H
            return
        columns = matrices.sampled(module, x, places)
        wide = columns.shape[2] > self._widest
        found = columns.square().sum(1) if wide else columns.transpose(1, 2) @ columns
        self._H = self._H + found
        self._mean = self._mean + columns.sum(1)
        if len(columns) > 1:
            W = torch.unflatten(matrices.matrix(module), 0, (len(columns), -1))
            y = (columns @ W.transpose(1, 2)).transpose(0, 1).flatten(1)
            self._outputs = y.T @ y + (0 if self._outputs is None else self._outputs)

    def moments(self) -> Moments:
        outputs = None if self._outputs is None else self._outputs / self.positions
        return Moments(
            self._H / self.positions, outputs, self._mean / self.positions, self.positions
        )


class _Tap:
    """What the gradients at one layer say of changes to it."""

    def __init__(self, changes: Tensor, apart: bool, looked_up: bool) -> None:
        self._looked_up = looked_up
        self.examples = 1
        self.count = 0  # of examples, each as often as it was drawn
        self._changes, self._apart = changes, apart
        self._now: Any = None
        self._sums = torch.zeros(2, len(changes), dtype=torch.float64)
        self._gradients = torch.zeros(changes.shape[1], dtype=torch.float64)

    @torch.no_grad()
    def gradient(self, module: nn.Module, x: Tensor, g: Tensor) -> None:
        """Of one time that the layer ran."""
        examples = self.examples if self._apart else 1
        turned = matrices.is_embedding(module) != self._looked_up  # tied to one of another kind
        changes = self._changes.transpose(1, 2) if turned else self._changes
        found = matrices.products(module, x, g, changes, examples)
        self._now = found if self._now is None else self._now + found
        if turned:
            return
        rows = matrices.channels(module, g)
        self._gradients += rows.square().sum(0, dtype=torch.float64)

    def drawn(self) -> None:
        """The gradients of a draw have all come."""
        if self._now is None:
            return
        # summed over examples, whose draws are independent, it has the sum of their squares
        squares = self._now.to(torch.float64).square()
        self._sums += torch.stack((squares.sum(0), squares.square().sum(0)))
        self.count += self.examples
        self._now = None

    def damages(self) -> Damages:
        mean, square = self._sums / self.count
        spread = ((square - mean.square()).clamp(min=0) / self.count).sqrt()
        return Damages(mean / 2, spread / 2, self._gradients / self.count)


def _places(
    share: float, x: Tensor, y: Tensor, mask: Tensor | None, module: nn.Module, generator: Any
) -> Tensor:
    """Numbers of the positions that are taken."""
    count = y.numel() // matrices.matrix(module).shape[0]
    if mask is not None and mask.numel() == count and y.shape[:2] == mask.shape:
        found = mask.flatten().nonzero()[:, 0]
    else:
        found = torch.arange(count)
    if share >= 1:
        return found
    chosen = torch.randperm(len(found), generator=generator)[: round(share * len(found))]
    return found[chosen.sort().values]


@contextmanager
def _hooked(
    model: nn.Module, ran: Callable[[str, nn.Module, Tensor, Tensor], None]
) -> Iterator[None]:
    """Within a `with`: `ran` is called with name, module, argument and output of all layers."""
    hooks = []
    for name, module in model.named_modules():
        if matrices.is_layer(module):

            def after(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                ran(name, module, args[0], output)

            hooks.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _tapped(model: nn.Module, taps: Sequence[tuple[str, _Tap]]) -> Iterator[None]:
    hooks = [
        model.get_submodule(name).register_forward_hook(_watch(name, tap)) for name, tap in taps
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _watch(name: str, tap: _Tap) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def seen(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        x = args[0].detach()
        version = x._version
        # A gradient starts at the first layer where none can flow from the inputs. What follows may
        # write over neither where it starts nor, unnoticed by hooks, over a view: it gets a copy.
        starts = not output.requires_grad
        output = output.requires_grad_()
        returned = output.clone() if starts or output._is_view() else output

        def back(g: Tensor) -> None:
            if x._version != version:
                raise ValueError(f"what the layer {name} reads is written over later in the run")
            tap.gradient(module, x, g)

        output.register_hook(back)  # type: ignore[no-untyped-call]
        return returned

    return seen


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Within a `with`: no parameter asks for a gradient."""
    asked: Sequence[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
