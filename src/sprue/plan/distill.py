"""Distillation: a student learns to give its teacher's distributions.

Teacher and student are functions of a batch that give logits [..., classes]; what a batch is only
they know, so that language models, classifiers and encoders are taught alike. The loss is
KL(teacher || student) in nats, the mean over all rows of logits, and where what is true is known,
in part the cross-entropy with that (Hinton et al. 2015, arXiv:1503.02531, section 2, at temperature
1). AdamW (Loshchilov and Hutter 2019), gradients
clipped at norm 1, a linear warm-up and then a cosine to zero.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.plan.sketch import Sketch, formed, sketched_loss, trust_of

Batch = TypeVar("Batch")

_WARM = 0.05  # share of the schedule
_CLIP = 1.0


@dataclass(frozen=True)
class Schedule:
    """How long, and how fast.

    Attributes:
        steps: so many; the same bytes every time.
        seconds: or so long, by the clock; exactly one of the two is given.
        rate: highest learning rate.
        decay: decoupled weight decay, of matrices.
        tokens: rows of logits whose gradients make a step, about.
    """

    steps: int | None = None
    seconds: float | None = None
    rate: float = 1e-3
    decay: float = 0.01
    tokens: int = 2048

    def __post_init__(self) -> None:
        given = [limit for limit in (self.steps, self.seconds) if limit is not None]
        if len(given) != 1 or not given[0] > 0 or not math.isfinite(given[0]):
            raise InputError(
                f"expected a number of steps or of seconds above 0, got {self.steps} steps and "
                f"{self.seconds} seconds"
            )

    def done(self, step: int, seconds: float) -> float:
        """The share of the schedule that is behind, 1 or more at its end."""
        if self.steps is not None:
            return step / self.steps
        return seconds / float(self.seconds or math.inf)

    def rate_at(self, done: float) -> float:
        """The learning rate."""
        if done < _WARM:
            return self.rate * (0.02 + 0.98 * done / _WARM)
        return self.rate * 0.5 * (1 + math.cos(math.pi * (done - _WARM) / (1 - _WARM)))


@dataclass
class Distillation(Generic[Batch]):
    """A student in the making.

    Attributes:
        teacher, student: batch -> logits [..., classes] of the same shape, of the teacher a
            sketch will do; the student's are differentiable in `parameters`.
        parameters: what is trained, by name.
        batches: step -> batches whose gradients are added before the step; the same for the same
            step, so that a resumed run sees what an uninterrupted one does.
        schedule: how long.
        pace: name of a parameter -> its learning rate as a share of the schedule's, where not 1.
        truth: batch -> the true class of each row of logits, int64 [...], `teach.UNKNOWN` where
            that is not known, or None where it is of no row; None: of no batch.
        trusted: share of the loss that is the cross-entropy with the truth, where it is known.
        step: how many steps were taken.
        seconds: spent on them.
        losses: mean loss of every step, nats: the KL, where the truth is not known.
    """

    teacher: Callable[[Batch], Tensor | Sketch]
    student: Callable[[Batch], Tensor]
    parameters: Mapping[str, nn.Parameter]
    batches: Callable[[int], Sequence[Batch]]
    schedule: Schedule
    pace: Mapping[str, float] = field(default_factory=dict)
    truth: Callable[[Batch], Tensor | None] | None = None
    trusted: float = 0.5
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups = [
            {
                "params": [parameter],
                "pace": self.pace.get(name, 1.0),
                "weight_decay": self.schedule.decay if parameter.ndim > 1 else 0.0,
            }
            for name, parameter in self.parameters.items()
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=self.schedule.rate, betas=(0.9, 0.98))

    @property
    def done(self) -> float:
        """The share of the schedule that is behind; 1 at its end."""
        return min(1.0, self.schedule.done(self.step, self.seconds))

    def advance(self) -> float:
        """Take one step; the mean loss of its batches before it, in nats.

        Raises:
            InputError: the loss is not finite.
        """
        begin = time.monotonic()
        for group in self._optimizer.param_groups:
            group["lr"] = group["pace"] * self.schedule.rate_at(self.done)
        loss = self._gradients(self.batches(self.step))
        nn.utils.clip_grad_norm_(self.parameters.values(), _CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.monotonic() - begin
        self.losses.append(loss)
        return loss

    def _gradients(self, batches: Sequence[Batch]) -> float:
        total = 0.0
        for batch in batches:
            with torch.no_grad():
                aim = self.teacher(batch)
            loss = self._loss(aim, self.student(batch), batch) / len(batches)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if not math.isfinite(total):
            raise InputError(
                f"the distillation diverged in step {self.step}: its loss is {total}; the weights "
                "of the original may be damaged, or the learning rate is too high"
            )
        return total

    def _loss(self, aim: Tensor | Sketch, answer: Tensor, batch: Batch) -> Tensor:
        true = None if self.truth is None else self.truth(batch)
        rows = answer.flatten(0, -2).float()
        known = None if true is None else true.flatten()
        if isinstance(aim, Sketch):
            return sketched_loss(rows, aim.flattened(), known, self.trusted)
        return mixed_loss(rows, aim.flatten(0, -2).float(), known, self.trusted)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that going on takes: JSON-able, and tensors."""
        told = {"step": self.step, "seconds": self.seconds, "losses": list(self.losses)}
        tensors = {}
        for name, parameter in self.parameters.items():
            tensors[f"value/{name}"] = parameter.detach()
            for key in ("exp_avg", "exp_avg_sq"):
                moment = self._optimizer.state[parameter].get(key)
                if moment is not None:
                    tensors[f"{key}/{name}"] = moment
        return told, tensors

    @torch.no_grad()
    def resume(self, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.step, self.seconds = int(told["step"]), float(told["seconds"])
        self.losses = [float(loss) for loss in told["losses"]]
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"value/{name}"])
            if f"exp_avg/{name}" in tensors:
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    **{key: tensors[f"{key}/{name}"].clone() for key in ("exp_avg", "exp_avg_sq")},
                }


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of logits [..., classes], mean over the rows, in nats."""
    p, q = (logits.flatten(0, -2).float().log_softmax(-1) for logits in (teacher, student))
    return nn.functional.kl_div(q, p, reduction="batchmean", log_target=True)


def mixed_loss(student: Tensor, teacher: Tensor, true: Tensor | None, trusted: float) -> Tensor:
    """(1 - trusted) KL(teacher || student) + trusted x cross-entropy, mean over rows, in nats.

    Its gradient is formed as the loss is: with the vocabularies of language models the memory that
    the usual chain of operators goes through takes more time than the products.

    Args:
        student, teacher: logits, float32 [rows, classes]; the gradient is the student's.
        true: classes, int64 [rows], `teach.UNKNOWN` where that is not known, where all of the loss
            is the distance; None: of no row.
        trusted: 0 to 1.
    """
    with torch.no_grad():
        q, p = student.log_softmax(-1), teacher.log_softmax(-1)
        share = p.exp()
        apart = torch.where(share > 0, p.sub_(q), 0.0)  # what the teacher rules out adds nothing
        count, (rows, known, trust) = len(q), trust_of(true, trusted, len(q), q.device)
        share *= (1 - trust)[:, None]
        loss = torch.dot(share.flatten(), apart.flatten()) - trusted * q[rows, known].sum()
        gradient = q.exp_().sub_(share)
        gradient[rows, known] -= trusted
        gradient.div_(count)
    return formed(student, loss / count, gradient)
