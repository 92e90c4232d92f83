"""What each matrix means to the model once all the others are compressed, measured at the output.

The Fisher information of `survey` takes outputs to be independent of one another and errors to be
small. So every matrix is compressed as a first pick says, and then, one after the other, each is
put back, and its error turned around: what its error does is the mean divergence of both signs less
the divergence without it, in which what it has in common with the other errors cancels. Over what
was predicted, that is the factor by which predictions for this matrix are off. All of it is one
walk over the blocks: what follows from a matrix put back travels along as further windows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sprue.models import Group, Stream, get_weight, lent, set_weight
from sprue.plan.blame import blamed
from sprue.plan.keeping import Keeping
from sprue.plan.moments import Moment
from sprue.plan.recipe import Recipe
from sprue.plan.room import tidy
from sprue.plan.survey import Survey
from sprue.weights import packed
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose

TOKENS = 256  # of a window, at most
_WINDOWS = (2, 8)
_RUNS = 200  # windows times matrices, about
_STATE_BITS = 9  # of trellises here: a quick code errs in the same directions as a good one
MASK_STEPS = 2  # the same of masks
_LEAST = 0.05  # a factor below it is noise
_STAGE = "context"


def windows_for(linears: int) -> int:
    """Windows to measure a model with so many linears on: fewer for larger ones."""
    least, most = _WINDOWS
    return max(least, min(most, _RUNS // linears))


@dataclass
class Context:
    """A compressed model, and what putting back each of its matrices gives.

    Attributes:
        stream: the original, on a few windows, at least two.
        survey: what was predicted.
        recipe: how every matrix is compressed; others stay.
        progress: called after every block.
        keeping: where an earlier walk was stopped; None: nothing is kept.
    """

    stream: Stream
    survey: Survey
    recipe: Recipe
    progress: Callable[[], None] = lambda: None
    keeping: Keeping | None = None
    predicted: dict[str, float] = field(default_factory=dict, init=False)

    def sensitivities(self) -> dict[str, float]:
        """Module name of a block's linear -> measured damage over predicted damage."""
        measured = self.measured()
        predicted = np.array([self.predicted[name] for name in measured])
        factors = np.array(list(measured.values())) / predicted[:, None]
        return dict(zip(measured, shrunk(factors).tolist(), strict=True))

    def measured(self) -> dict[str, NDArray[np.float64]]:
        """Module name -> what its error does, nats per token, in each window."""
        stream, family = self.stream, self.stream.source.family
        names = [
            name
            for i in range(stream.blocks)
            for name in (f"{family.block(i)}.{n}" for n in family.linears(stream.source.config))
            if name in self.recipe.tensors
        ]
        count = len(stream.ids)
        others = stream.allocate(2 * len(names) * count)
        first, at, original, hidden = self._start(others)
        for i in range(first, stream.blocks):
            at = self._block(i, original, hidden, others, at)
            self._keep(i + 1, original, hidden, others[:at])
            self.progress()
        whole, *rest = _divergences(stream, original, [hidden, *torch.split(others, count)])
        pairs = zip(names, rest[::2], rest[1::2], strict=True)
        return {name: (whole + turned) / 2 - without for name, without, turned in pairs}

    def _start(self, others: Tensor) -> tuple[int, int, Tensor, Tensor]:
        """The first block, how many of `others` are in use, what original and result receive."""
        live = self.keeping.live(_STAGE) if self.keeping else None
        if live is None:
            return 0, 0, self.stream.embed(), self.stream.embed()
        self.predicted |= live.told["predicted"]
        original, hidden = live.waiting.get(self.stream, ("original", "hidden"))
        for _ in range(live.step):
            self.progress()
        return live.step, live.waiting.fill(self.stream, "others", others), original, hidden

    def _keep(self, done: int, original: Tensor, hidden: Tensor, others: Tensor) -> None:
        if self.keeping is not None:
            arrays = {"original": original, "hidden": hidden, "others": others}
            told = {"predicted": self.predicted}
            self.keeping.keep(_STAGE, done, lambda: told, self.stream, arrays)

    def _block(self, i: int, original: Tensor, hidden: Tensor, others: Tensor, at: int) -> int:
        """All activations are advanced through block i; those of its own matrices join them.

        `at` windows of `others` are in use; returns how many are afterwards.
        """
        stream, prefix = self.stream, self.stream.source.family.block(i)
        block = stream.load(i)
        stream.run(block, i, original, out=original)
        done: list[str] = []
        for group in stream.source.family.groups(stream.source.config):
            done += self._group(block, i, hidden, group)
        if at:
            stream.run(block, i, others[:at], out=others[:at])
        for local in done:
            for turned in (False, True):
                with self._other(block, prefix, local, turned):
                    out = others[at : at + len(hidden)]
                    stream.run(block, i, hidden, out=out)
                at += len(hidden)
        stream.run(block, i, hidden, out=hidden)
        return at

    def _group(self, block: nn.Module, i: int, hidden: Tensor, group: Group) -> list[str]:
        """The matrices of a group are compressed; local names of those that the recipe names."""
        prefix, moment = self.stream.source.family.block(i), Moment()
        todo = [n for n in group.linears if f"{prefix}.{n}" in self.recipe.tensors]
        if not todo:
            return []
        self.stream.observe(block, i, hidden, {group.linears[0]: moment})
        H = moment.mean()
        for local in todo:
            set_weight(block, local, self._compressed(f"{prefix}.{local}", H))
        return todo

    def _compressed(self, name: str, H: Tensor) -> Tensor:
        W, importance = self.stream.source.weight(name), self.survey.importance[name]
        seed = self.recipe.seed + zlib.crc32(name.encode())
        tidy()
        with blamed(name):
            result = decompose(W, H, _quick(self.recipe.tensors[name]), seed, importance)
        dense = packed.dense(result.meta, result.tensors)
        D = W.to(torch.float32) - dense
        rows = ((D @ H) * D).sum(1).to(torch.float64)
        self.predicted[name] = max(0.5 * float(rows @ importance.to(torch.float64)), 1e-300)
        return dense

    def _other(
        self, block: nn.Module, prefix: str, local: str, turned: bool
    ) -> AbstractContextManager[None]:
        """Within a `with`, the matrix as it was, or with its error turned around."""
        now = get_weight(block, local) if turned else None

        def matrix(name: str) -> Tensor:
            W = self.stream.source.weight(f"{prefix}.{name}").to(torch.float32)
            return W if now is None else 2 * W - now

        return lent(block, [local], matrix)


def shrunk(factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factors [matrices] that measurements [matrices, windows] speak for.

    What windows disagree about, beside a window's own level, is noise; what is left of the spread
    over matrices is believed, in that proportion, around the common mean (Efron and Morris 1975).
    """
    level = factors.mean(0)
    even = factors - level + level.mean()
    mean = even.mean(1)
    noise = float((even.var(1, ddof=1) / even.shape[1]).mean())
    spread = float(mean.var(ddof=1)) if len(mean) > 1 else 0.0
    share = max(0.0, 1 - noise / spread) if spread > 0 else 0.0
    return np.asarray(np.maximum(mean.mean() + share * (mean - mean.mean()), _LEAST))


def _quick(choice: Choice) -> Choice:
    return replace(choice, state_bits=_STATE_BITS, mask_steps=MASK_STEPS)


@torch.no_grad()
def _divergences(
    stream: Stream, original: Tensor, others: list[Tensor]
) -> list[NDArray[np.float64]]:
    """KL of each from the original, [windows], nats per token."""
    total = np.zeros((len(others), len(original)))
    for window in range(len(original)):
        one = slice(window, window + 1)
        p = stream.logits(original[one]).log_softmax(-1)
        for k, hidden in enumerate(others):
            q = stream.logits(hidden[one]).log_softmax(-1)
            total[k, window] = float((p.exp() * (p - q)).sum(dtype=torch.float64))
    stream.release()
    return list(total / original.shape[1])
