"""What an error in each output of each linear costs: the model's Fisher information, streamed.

The weights of a linear y = W x have a Fisher matrix of about G (x) H, with H = E[x x^T] and
G = E[g g^T], g = d nll / d y for labels drawn from the model's own distribution: the true Fisher,
not the empirical one that the text's own tokens would give (K-FAC: Martens and Grosse 2015,
arXiv:1503.05671, section 3). Here is the diagonal of G. For a small error D of the weights,

    KL(original || changed) in nats per token ~ 1/2 sum_r G_rr (D H D^T)_rr,

with D H D^T the second moment of the error of y. Terms between different tokens are left out, as
in K-FAC for layers that tokens share; they matter where attention mixes what one D does to many
tokens: an error of a value projection can cost two or three times what is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sprue.models.stream import Stream

_LOGITS = 8 << 20  # logits in memory at a time, and a few arrays of their size


@dataclass(frozen=True)
class Fisher:
    """Mean squared gradients of the nll (in nats) of sampled labels; all float64, on the CPU.

    Attributes:
        rows: module name of every block linear, then of the head -> [out], the mean over tokens of
            the squared gradient at that output; for the head its expectation over labels, since
            most words of a vocabulary are never drawn.
        embedding: [vocab], for each row of the embedding's matrix the squared gradient at that row
            (the model's scaling of embeddings included), mean over its width, sum over the tokens
            with that id, divided by the number of all tokens: 0 for ids that do not occur.
        tokens: how many tokens that were, each with one label.
    """

    rows: Mapping[str, Tensor]
    embedding: Tensor
    tokens: int


@dataclass(frozen=True)
class Halfway:
    """A measurement between two blocks on the way back.

    Attributes:
        block: the one that was passed last; those before it are still to come.
        gradient: float32 [windows, context, hidden], of the labels' nll at its input.
        sums: module name of the head and of every linear passed -> float64 [out], squared gradients
            summed over tokens.
    """

    block: int
    gradient: Tensor
    sums: Mapping[str, Tensor]


@torch.enable_grad()
def fisher(
    stream: Stream,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
    begun: Halfway | None = None,
    keep: Callable[[Halfway], None] = lambda _: None,
) -> Fisher:
    """The Fisher information of every linear's outputs, over all windows of `stream`.

    Forward block by block, labels for all tokens, then backward from the last block to the first.
    One block's weights are in memory at a time, with the activations of one batch; the inputs of
    all blocks wait in arrays from `stream.allocate()`. No parameter receives a gradient.

    Args:
        stream: the model and the windows.
        seed: decides the labels, whatever the batch.
        progress: called with the number of blocks done so far: forward 1 to `stream.blocks`,
            backward on to twice that.
        begun: where an earlier measurement, of the same, was stopped; its gradient is changed.
        keep: called between blocks on the way back.

    Raises:
        InputError: as for `Stream.load`.
        ResourceError: the activations do not fit on the disk.
    """
    family, tokens = stream.source.family, stream.ids.numel()
    linears = family.linears(stream.source.config)
    names = [f"{family.block(i)}.{local}" for i in range(stream.blocks) for local in linears]
    sums = {name: _Squares() for name in names}
    head = _Expected()
    report = progress or (lambda done: None)

    if begun is None:
        inputs = _inputs(stream, stream.blocks, report)
        gradient = inputs.pop()
        _back_from_labels(stream, gradient, head, torch.Generator().manual_seed(seed))
    else:
        gradient = begun.gradient
        for name, total in begun.sums.items():
            (head if name == family.head else sums[name]).total = total
        inputs = _inputs(stream, begun.block - 1, report)
        for i in reversed(range(begun.block, stream.blocks)):
            report(2 * stream.blocks - i)
    for i in reversed(range(len(inputs))):
        taps = {local: sums[f"{family.block(i)}.{local}"] for local in linears}
        _back_through(stream, i, inputs.pop(), gradient, taps)
        report(2 * stream.blocks - i)
        passed = {name: squares.total for name, squares in sums.items() if squares.total.dim()}
        keep(Halfway(i, gradient, {**passed, family.head: head.total}))
    return Fisher(
        rows={
            name: squares.total / tokens for name, squares in [*sums.items(), (family.head, head)]
        },
        embedding=_back_to_rows(stream, gradient) / tokens,
        tokens=tokens,
    )


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One label per token from softmax(logits), [..., vocab] -> int64 [...].

    The distribution function is inverted at one uniform number per token, drawn in the order of
    the tokens: how tokens are cut into batches does not change their labels.

    Args:
        logits: any float dtype, any device.
        generator: of the CPU, so that devices agree.
    """
    draws = torch.rand(logits.shape[:-1], generator=generator, dtype=torch.float64)
    cumulative = logits.softmax(-1, dtype=torch.float64).cumsum_(-1)
    # the last entry is 1 but for rounding; `right` skips labels of probability 0
    level = draws.to(logits.device).unsqueeze(-1) * cumulative[..., -1:]
    labels = torch.searchsorted(cumulative, level, right=True).squeeze(-1)
    return labels.clamp_(max=logits.shape[-1] - 1)


class _Squares:
    """Sum over tokens of the squares of [tokens, out] gradients."""

    def __init__(self) -> None:
        self.total = torch.zeros((), dtype=torch.float64)

    def __call__(self, gradient: Tensor) -> None:
        tokens = gradient.reshape(-1, gradient.shape[-1])
        self.total = self.total + tokens.square().sum(0, dtype=torch.float64).to("cpu")


class _Expected(_Squares):
    """The expectation over labels of the same, at the output of the head.

    With s = d logit / d output (1, or the slope of a soft cap) the gradient for label y is
    s (p - e_y) and the expectation of its square s^2 p (1 - p).
    """

    def __init__(self) -> None:
        super().__init__()
        self._share = torch.zeros(())

    def drawn(self, logits: Tensor, labels: Tensor) -> None:
        """The logits [tokens, vocab] and labels [tokens] whose gradient comes next."""
        p = logits.softmax(-1)
        offset = p.scatter_add(-1, labels[:, None], p.new_full(labels[:, None].shape, -1.0))
        self._share = (p * (1 - p)).sqrt_().div_(offset).nan_to_num_(0.0, 0.0, 0.0)

    def __call__(self, gradient: Tensor) -> None:
        super().__call__(gradient.reshape(self._share.shape) * self._share)


def _inputs(stream: Stream, last: int, report: Callable[[int], None]) -> list[Tensor]:
    """The input of every block up to the `last`, whose number may be that of all: the output."""
    inputs = [stream.embed()] if last >= 0 else []
    for i in range(stream.blocks):
        if i < last:
            inputs.append(stream.run(stream.load(i), i, inputs[-1]))
        report(i + 1)
    return inputs


def _back_from_labels(
    stream: Stream, hidden: Tensor, tap: _Expected, generator: torch.Generator
) -> None:
    """`hidden`, the last block's output, becomes the gradient of the labels' nll there."""
    with _watch(stream.head, tap):
        for chunk in _chunks(hidden, stream.batch, int(stream.source.config.vocab_size)):
            hidden[chunk] = _gradient_of_labels(stream, hidden[chunk], tap, generator)
            stream.settle(hidden)
    stream.release()


def _gradient_of_labels(
    stream: Stream, hidden: Tensor, tap: _Expected, generator: torch.Generator
) -> Tensor:
    hidden = hidden.detach().requires_grad_()
    logits = stream.logits(hidden).flatten(0, 1)
    labels = sample(logits.detach(), generator)
    tap.drawn(logits.detach(), labels)
    nll = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return torch.autograd.grad(nll, hidden)[0]


def _back_through(
    stream: Stream, i: int, hidden: Tensor, gradient: Tensor, taps: Mapping[str, _Squares]
) -> None:
    """`gradient`, at the output of block `i`, becomes the one at its input, `hidden`."""
    block = stream.load(i)
    for local, tap in taps.items():
        _watch(block.get_submodule(local), tap)
    for part in stream.parts(hidden):
        entering = hidden[part].detach().requires_grad_()
        leaving = stream.step(block, i, entering)
        (gradient[part],) = torch.autograd.grad(leaving, entering, gradient[part])
        stream.settle(hidden)
        stream.settle(gradient)


def _back_to_rows(stream: Stream, gradient: Tensor) -> Tensor:
    """[vocab]: `gradient`, at the input of block 0, taken on to the embedding's rows."""
    name = f"{stream.source.family.embedding}.weight"
    total = torch.zeros(stream.source.shape(name)[0], dtype=torch.float64)
    for part, rows, entering in stream.lookups():
        (g,) = torch.autograd.grad(entering, rows, gradient[part])
        squared = g.square().mean(-1, dtype=torch.float64).to("cpu")
        total.index_add_(0, stream.ids[part].flatten(), squared)
        stream.settle(gradient)
    return total


def _watch(module: nn.Module, tap: _Squares) -> torch.utils.hooks.RemovableHandle:
    """Until removed: `tap` gets the gradient at the module's output in every backward pass.

    A hook on the output itself sees it as the module returned it, even if the model goes on to
    change it in place.
    """

    def forward(_: nn.Module, inputs: Any, output: Tensor) -> None:
        output.register_hook(tap)  # type: ignore[no-untyped-call]

    return module.register_forward_hook(forward)


def _chunks(hidden: Tensor, batch: int, vocabulary: int) -> Iterator[tuple[slice, slice]]:
    """Windows and positions with at most `_LOGITS` logits, in the order of the tokens."""
    windows, context = hidden.shape[:2]
    tokens = max(1, _LOGITS // vocabulary)
    count = max(1, min(batch, tokens // context))
    for first in range(0, windows, count):
        for start in range(0, context, tokens):
            yield slice(first, first + count), slice(start, start + tokens)
