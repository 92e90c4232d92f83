"""What the layers of a network read, and what errors of their outputs cost: on some examples.

For every layer y = W x the second moment H of x over examples and positions, and for each output r
the mean over examples of the sum over positions of g_r^2, g the gradient at y of the likelihood of
an answer that the network itself gives. Changing W by D costs about 1/2 sum_r g_r^2 (D H D^T)_rr in
nats for an example (K-FAC: Martens and Grosse 2015, section 3, and, for convolutions, Grosse and
Martens 2016, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Pull = Callable[[Any, torch.Generator], Tensor]  # outputs -> minus a log likelihood, summed


_EACH, _LEAST = 8, 4096  # positions of a batch for each column, and at least


@dataclass(frozen=True)
class Answers:
    """What the outputs of a network mean.

    Attributes:
        pull: minus the log likelihood of an answer that is drawn, summed over examples; its squared
            gradient is the Fisher information.
        apart: (outputs, others) -> the divergence of the answers, nats for an example.
    """

    pull: Pull
    apart: Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Reading:
    """Of one layer.

    Attributes:
        H: float32 [in, in]; of a convolution the inputs under its kernel, channel after channel.
        importance: float64 [out].
    """

    H: Tensor
    importance: Tensor


def drawn_class(logits: Tensor, generator: torch.Generator) -> Tensor:
    """For classifiers, [examples, ..., classes]: classes drawn from what the network believes."""
    rows = logits.flatten(0, -2)
    drawn = torch.multinomial(rows.detach().softmax(-1), 1, generator=generator)[:, 0]
    return functional.cross_entropy(rows, drawn, reduction="sum")


def drawn_vector(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """For vectors, [examples, ...]: a normal one of unit variance around each."""
    noise = torch.randn(outputs.shape, generator=generator)
    return (outputs * noise).sum()


def classes_apart(logits: Tensor, others: Tensor) -> float:
    """KL of the second from the first, summed over rows, mean over examples."""
    p, q = logits.log_softmax(-1), others.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(dtype=torch.float64)) / len(logits)


def vectors_apart(outputs: Tensor, others: Tensor) -> float:
    """The same of normal ones of unit variance around each."""
    return float((outputs - others).double().square().sum() / 2 / len(outputs))


CLASSES = Answers(drawn_class, classes_apart)
VECTORS = Answers(drawn_vector, vectors_apart)


def read(
    model: nn.Module,
    batches: Iterable[tuple[Any, ...]],
    names: Sequence[str],
    answers: Answers = CLASSES,
    seed: int = 0,
) -> dict[str, Reading]:
    """Readings of the named layers (Linear, or convolutions with groups of 1).

    Args:
        model: in eval mode; its parameters get no gradients.
        batches: arguments of the model, the first dimension of each the examples.
        names: of layers.
        answers: what the outputs mean.
        seed: of the answers.

    Raises:
        ValueError: there are no examples, or a layer is not reached.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {name: _Sums() for name in names}
    examples = 0
    with _watched(model, sums), torch.enable_grad():
        for batch in batches:
            # a gradient flows from the inputs, or from the embeddings of what has none
            entered = [a.detach().requires_grad_(a.is_floating_point()) for a in batch]
            answers.pull(first(model(*entered)), generator).backward()  # type: ignore[no-untyped-call]
            examples += len(batch[0])
    model.zero_grad(set_to_none=True)
    if not examples:
        raise ValueError("expected examples to read a network on, received none")
    silent = [name for name, one in sums.items() if one.H is None]
    if silent:
        raise ValueError(f"the layer {silent[0]} is not reached by the examples")
    return {name: one.reading(examples) for name, one in sums.items()}


def columns_of(module: nn.Module, x: Tensor) -> Tensor:
    """What a layer multiplies with its weights, [positions, in]."""
    if isinstance(module, nn.Conv2d):
        options = (module.kernel_size, module.dilation, _padding(module), module.stride)
        found = functional.unfold(x, *options)
        return found.transpose(1, 2).reshape(-1, found.shape[1])
    return x.reshape(-1, x.shape[-1])


def rows_of(module: nn.Module, y: Tensor) -> Tensor:
    """What a layer gives, [positions, out]."""
    if isinstance(module, nn.Conv2d):
        return y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])
    return y.reshape(-1, y.shape[-1])


def thinned(columns: int, rows: int) -> slice:
    """Which of the positions of a batch are enough to know the moments of so many columns by.

    Neighbors in an image see much the same: of early layers, which have a thousand positions for
    every column, evenly spaced ones are taken.
    """
    enough = max(_EACH * columns, _LEAST)
    return slice(0, None, max(1, rows // enough))


@contextmanager
def hooked(model: nn.Module, ran: Callable[[str, nn.Module, Any, Any], None]) -> Iterator[None]:
    """Within a `with`: `ran` is called with name, module, arguments and output of all that runs."""
    hooks = []
    for name, module in model.named_modules():

        def after(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            ran(name, module, args, output)

        hooks.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        raise ValueError("expected a convolution that is padded with a number of zeros")
    a, b = module.padding
    return a, b


class _Sums:
    def __init__(self) -> None:
        self.H: Tensor | None = None
        self._squares = torch.zeros((), dtype=torch.float64)
        self._positions = 0

    @torch.no_grad()
    def inputs(self, module: nn.Module, x: Tensor) -> None:
        columns = columns_of(module, x.detach())
        columns = columns[thinned(columns.shape[1], len(columns))]
        if self.H is None:
            self.H = torch.zeros(columns.shape[1], columns.shape[1])
        self.H.addmm_(columns.T, columns)
        self._positions += len(columns)

    def gradient(self, module: nn.Module, g: Tensor) -> None:
        self._squares = self._squares + rows_of(module, g).square().sum(0, dtype=torch.float64)

    def reading(self, examples: int) -> Reading:
        assert self.H is not None
        return Reading(self.H / self._positions, self._squares / examples)


@contextmanager
def _watched(model: nn.Module, sums: dict[str, _Sums]) -> Iterator[None]:
    hooks = []
    for name, one in sums.items():

        def seen(module: nn.Module, args: Any, output: Tensor, one: _Sums = one) -> Tensor:
            one.inputs(module, args[0])
            output.register_hook(lambda g: one.gradient(module, g))  # type: ignore[no-untyped-call]
            # hooks on a view are lost, unnoticed, where an activation then writes over it
            return output.clone() if output._is_view() else output

        hooks.append(model.get_submodule(name).register_forward_hook(seen))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def first(outputs: Any) -> Tensor:
    """The tensor that a network's answer is read off."""
    if isinstance(outputs, Tensor):
        return outputs
    found: Tensor = outputs[0]
    return found
