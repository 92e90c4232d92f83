"""A narrow model becomes a specialist: it learns from the full model on the text of a capability.

A part of the loss is the cross-entropy with the text itself, the rest the distance from the full
model's distributions. What the full model says of every token is what lets a small text suffice:
half the loss of each, as one would begin, learns the text by heart. For the same reason three of
four passages are text that the full model has written itself, of which only its distributions are
learned: what it knows beyond the text is in there (benchmarks/LOG.md). The full model reads every
passage once and is remembered by a sketch; its forward pass would be a third of each step. The best
by text that is held back is kept, so that reading too long costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sprue.fleet.imagined import Imagined
from sprue.models import Writer
from sprue.plan.distill import Distillation, Schedule
from sprue.plan.lesson import Lesson, Look
from sprue.plan.passages import Passages
from sprue.plan.sketch import Remembered
from sprue.plan.teach import UNKNOWN

RATE = 1.5e-3  # at a width of 256
_FASTEST = 2e-3
_AT_ONCE = 1 << 24  # logits of a batch
_IMAGINED = 0.75  # of each step, if there is so much
_TRUSTED = 0.3  # share of the loss on true text that is the text itself
_PLACES = 2  # in a passage's length, that another one begins at


@dataclass(frozen=True)
class Lines:
    """Passages side by side.

    Attributes:
        ids: int64 [passages, tokens].
        true: of each whether it is of the text, and not written by the full model, bool [passages].
    """

    ids: Tensor
    true: Tensor

    @property
    def truth(self) -> Tensor:
        """The next token after each but the last where it is of the text, else UNKNOWN."""
        return self.ids[:, 1:].where(self.true[:, None], UNKNOWN)


@dataclass
class _Remembering(Distillation[Lines]):
    """A distillation whose state holds the best student so far."""

    best: tuple[float, dict[str, Tensor]] | None = None

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        told, tensors = super().state()
        if self.best is not None:
            told["best"] = self.best[0]
            tensors |= {f"best/{name}": tensor for name, tensor in self.best[1].items()}
        return told, tensors

    def resume(self, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().resume(told, tensors)
        kept = {n.removeprefix("best/"): t for n, t in tensors.items() if n.startswith("best/")}
        self.best = float(told["best"]), kept


@dataclass
class School:
    """A full model, its student, and the text.

    Attributes:
        full: causal, of `transformers`, float32, in eval mode.
        student: what is trained; changed in place, and left as the best that it was.
        rows: of the full model's logits that the student has too, int64 [student's vocabulary];
            None: all.
        learned: streams of tokens of the student, int64 each.
        imagined: texts that the full model has written; None: there are none.
        held: windows that are not learned from, int64 [windows, tokens].
        schedule: how long.
        writer: where the state is saved.
        learns: names of the parameters that are trained; None: all.
        seed: of what is read when.
        progress: called with the share of the schedule that a step took.
        losses: of every step, nats.
    """

    full: Any
    student: Any
    rows: Tensor | None
    learned: Sequence[Tensor]
    held: Tensor
    schedule: Schedule
    writer: Writer
    imagined: Imagined | None = None
    learns: Collection[str] | None = None
    seed: int = 0
    progress: Callable[[float], object] = lambda share: None
    losses: list[float] = field(default_factory=list)

    def run(self, state: Mapping[str, Any] | None) -> list[Look]:
        """To the end of the schedule; what was measured on the way, the state before it first.

        Args:
            state: what the writer gave back, where an earlier run was cut short.
        """
        work = self._work()
        lesson = Lesson(work, lambda: self._measured(work), self.writer, {}, self.progress)
        looks = lesson.run(state)
        assert work.best is not None  # it was looked at in any case
        for name, parameter in work.parameters.items():
            parameter.requires_grad_(False).copy_(work.best[1][name])
        self.losses = work.losses
        return looks

    def _work(self) -> _Remembering:
        context = self.held.shape[1]
        count = max(1, self.schedule.tokens // context)
        parameters = {}
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(self.learns is None or name in self.learns)
            if parameter.requires_grad:
                parameters[name] = parameter
        teacher = Remembered(self._said)
        if self.imagined is not None:
            teacher.learn(self.imagined.ids, self.imagined.said)
        return _Remembering(
            teacher=lambda lines: teacher(lines.ids),
            student=lambda lines: self._answered(lines.ids),
            parameters=parameters,
            batches=self._lines(context, count),
            schedule=self.schedule,
            truth=lambda lines: lines.truth,
            trusted=_TRUSTED,
        )

    def _lines(self, context: int, count: int) -> Callable[[int], list[Lines]]:
        """Step -> true passages, and those that were imagined."""
        streams, places = tuple(self.learned), max(1, context // _PLACES)
        written = 0 if self.imagined is None else min(count - 1, round(_IMAGINED * count))
        true = Passages(streams, context, count - written, count, self.seed, places)
        sources = [true]
        if self.imagined is not None and written:
            texts = tuple(self.imagined.ids)
            sources.append(Passages(texts, context, written, count, self.seed + 1))
        known = torch.arange(count) < count - written

        def lines(step: int) -> list[Lines]:
            ids = torch.cat([rows for source in sources for rows in source(step)])
            parts = zip(*(torch.split(x, self._at_once) for x in (ids, known)), strict=True)
            return [Lines(*part) for part in parts]

        return lines

    @property
    def _at_once(self) -> int:
        """Windows of a batch."""
        return max(1, _AT_ONCE // (int(self.student.config.vocab_size) * self.held.shape[1]))

    def _answered(self, batch: Tensor) -> Tensor:
        found: Tensor = self.student(batch[:, :-1], use_cache=False).logits
        return found

    @torch.no_grad()
    def _said(self, batch: Tensor) -> Tensor:
        """What the full model says of the next token, as far as the student knows it."""
        if self.rows is None:
            found: Tensor = self.full(batch[:, :-1], use_cache=False).logits
            return found
        logits: Tensor = self.full(self.rows[batch[:, :-1]], use_cache=False).logits
        return logits[..., self.rows]

    @torch.no_grad()
    def _measured(self, work: _Remembering) -> tuple[float, float]:
        """(kept, KL) on what is held; the best is remembered."""
        mine = theirs = apart = 0.0
        for batch in torch.split(self.held, self._at_once):
            true, share = batch[:, 1:, None], len(batch) / len(self.held)
            p, q = (say(batch).float().log_softmax(-1) for say in (self._said, self._answered))
            theirs -= share * float(p.gather(-1, true).mean())
            mine -= share * float(q.gather(-1, true).mean())
            apart += share * float((p.exp() * (p - q)).sum(-1).mean())
        if work.best is None or mine < work.best[0]:
            work.best = mine, {n: p.detach().clone() for n, p in work.parameters.items()}
        return math.exp(theirs - mine), apart


def rate_for(width: int) -> float:
    """The learning rate for models of this width."""
    return min(_FASTEST, RATE * 256 / width)
