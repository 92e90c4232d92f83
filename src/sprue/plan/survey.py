"""What each matrix means to the model, measured before anything is cut.

One pass forward and back over a few windows of the original gives, for every matrix, the second
moment of its inputs and the Fisher information of its outputs. From both follows the damage that
coding it at any rate will do, in nats per token, and so how a budget is best shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sprue.models import Stream
from sprue.models.fisher import Fisher
from sprue.plan.blame import blamed, check_finite
from sprue.plan.demands import DAMPING, Demands
from sprue.plan.moments import Moment
from sprue.plan.room import tidy
from sprue.plan.surveyed import Looks, Saved
from sprue.weights.choice import Choice
from sprue.weights.outlook import Outlook, outlook, with_zeros

QUICK = 3  # steps towards a mask: half as many as are taken later, and damage is 7% too high


@dataclass(frozen=True)
class Survey:
    """What was measured.

    Attributes:
        outlooks: module name -> predicted damage by rate, for block linears, embedding and head.
        importance: module name -> float64 [out], what a squared error of each output row costs.
        moments: second moments that no block gives: of what multiplies the embedding and the head.
        zeros: module name -> (choice of zeros, predicted damage by rate), for block linears, where
            they may have zeros.
        sensitivity: module name -> measured damage over the predicted; 1 where none was measured.
    """

    outlooks: Mapping[str, Outlook]
    importance: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    zeros: Mapping[str, Sequence[tuple[Choice, Outlook]]] = field(default_factory=dict)
    sensitivity: Mapping[str, float] = field(default_factory=dict)

    def damage(self, name: str, bits: float, outlook: Outlook | None = None) -> float:
        """Predicted KL of the original from the result, nats per token, for this matrix alone.

        Args:
            name: of the module.
            bits: a weight, everything stored counted.
            outlook: with zeros; None: without.
        """
        o = self.outlooks[name] if outlook is None else outlook
        return 0.5 * self.sensitivity.get(name, 1.0) * o.damage(bits)

    def power(self, name: str) -> float:
        """The same for an error that is in every column, after feedback, as large as the column."""
        o = self.outlooks[name]
        whole = o.scale * float((o.spread.variance * o.spread.cost).sum())
        return 0.5 * self.sensitivity.get(name, 1.0) * whole


def survey(
    stream: Stream,
    *,
    seed: int,
    demands: Demands | None = None,
    progress: Callable[[int], None] | None = None,
    saved: Saved | None = None,
) -> Survey:
    """Measure the model of `stream` on its windows.

    Args:
        stream: the original, on a few windows.
        seed: of the labels that the Fisher information draws.
        demands: the zeros that linears may have; None: none.
        progress: called with the number of blocks done so far, up to three times their number.
        saved: what an earlier survey of the same measured, and where this one says what it does.

    Raises:
        InputError: weights or activations that cannot be measured; says of which matrix.
    """
    report, saved = progress or (lambda done: None), saved or Saved()
    found = saved.fisher(stream, seed, report)
    outlooks: dict[str, Outlook] = {}
    zeros: dict[str, list[tuple[Choice, Outlook]]] = {}
    hidden = stream.embed()
    for i in range(stream.blocks):
        known = saved.block(i)
        if known is None:
            known = _block(stream, i, hidden, found, demands, seed)
            saved.keep_block(i, known)
        else:
            stream.run(stream.load(i), i, hidden, out=hidden)
        for name, (plain, others) in known.items():
            menu = demands.menu(plain.shape) if demands else []
            outlooks[name], zeros[name] = plain, list(zip(menu, others, strict=True))
        report(2 * stream.blocks + i + 1)
    importance, moments = _outer(stream, hidden, found)
    for name, H in moments.items():
        outlooks[name] = _outlook(stream, name, H, importance[name])
    return Survey(outlooks, {**found.rows, **importance}, moments, zeros)


def _block(
    stream: Stream, i: int, hidden: Tensor, found: Fisher, demands: Demands | None, seed: int
) -> Looks:
    """The outlooks of block i, without and with zeros; `hidden` is advanced through it."""
    family = stream.source.family
    groups, prefix = family.groups(stream.source.config), family.block(i)
    moments = {group.linears[0]: Moment() for group in groups}
    stream.run(stream.load(i), i, hidden, moments, out=hidden)
    outlooks: Looks = {}
    for group in groups:
        H = moments.pop(group.linears[0]).mean()
        for name in (f"{prefix}.{local}" for local in group.linears):
            plain = _outlook(stream, name, H, found.rows[name])
            menu = demands.menu(plain.shape) if demands else []
            with blamed(name):
                tried = [replace(choice, mask_steps=QUICK) for choice in menu]
                more = with_zeros(stream.source.weight(name), H, found.rows[name], tried, seed)
            outlooks[name] = plain, more
    return outlooks


def _outlook(stream: Stream, name: str, H: Tensor, importance: Tensor) -> Outlook:
    check_finite(name, importance, H.diagonal())
    tidy()
    with blamed(name):
        return outlook(stream.source.weight(name), H, importance, DAMPING)


def _outer(
    stream: Stream, hidden: Tensor, found: Fisher
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Importances and second moments of the embedding and, where it is its own, the head.

    A row of the embedding is added to the residual stream where its token occurs: all its columns
    count alike. A row of the head multiplies the last hidden state. A tied matrix does both: the
    sum of both costs, with one second moment for all rows.
    """
    family = stream.source.family
    H = _head_moment(stream, hidden)
    width = len(H)
    use, answer = found.embedding, found.rows[family.head]
    even = torch.eye(stream.source.shape(f"{family.embedding}.weight")[1])
    if not stream.source.tied:
        return (
            {family.embedding: use, family.head: answer},
            {family.embedding: even, family.head: H},
        )
    spread = float(H.diagonal().mean())
    both = answer[: len(use)] * spread + use
    mixed = H * float(answer.mean()) + torch.eye(width) * float(use.mean())
    return {family.embedding: both}, {family.embedding: mixed / mixed.diagonal().mean()}


@torch.no_grad()
def _head_moment(stream: Stream, hidden: Tensor) -> Tensor:
    """Second moment of what the head multiplies, float32 [hidden, hidden]."""
    moment = Moment()

    def take(_: object, inputs: tuple[Tensor, ...]) -> None:
        moment(inputs[0].reshape(-1, inputs[0].shape[-1]))
        raise _TakenError  # what the head would make of it is not asked for

    hook = stream.head.register_forward_pre_hook(take)
    try:
        for part in stream.parts(hidden):
            with suppress(_TakenError):
                stream.logits(hidden[part])
    finally:
        hook.remove()
        stream.release()
    return moment.mean()


class _TakenError(Exception):
    """The head's input is known."""
