"""What a teacher says of a text, kept as its likeliest classes, so that it is asked only once.

Of a row of logits the log probabilities of the likeliest classes are kept, and by what they lack to
1 the probability of all others together, which a student learns as that of one class (as in the
sparse distributions of Anshumann et al. 2025, arXiv:2503.16870, section 3, with their "ghost token"
for the rest). Of each row 64 classes of a vocabulary of 4,096 hold 85% of the probability.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sprue.plan.teach import UNKNOWN

KEPT = 64
_LEAST = 1e-6  # probability of all other classes that a student is taken to have at least


@dataclass(frozen=True)
class Likeliest:
    """Of every row the likeliest classes.

    Attributes:
        classes: int32 [..., kept].
        logs: their log probabilities, float16 [..., kept].
    """

    classes: Tensor
    logs: Tensor

    @classmethod
    def of(cls, logits: Tensor, kept: int = KEPT) -> Likeliest:
        """Of logits [..., classes]; all classes, where there are no more."""
        logs = logits.float()
        found = logs.topk(min(kept, logs.shape[-1]), -1)
        logs = found.values - logs.logsumexp(-1, keepdim=True)
        return cls(found.indices.to(torch.int32), logs.half())

    @classmethod
    def joined(cls, parts: list[Likeliest], dim: int = 0) -> Likeliest:
        """Parts side by side, or behind one another."""
        return cls(
            torch.cat([one.classes for one in parts], dim),
            torch.cat([one.logs for one in parts], dim),
        )

    def __getitem__(self, place: Any) -> Likeliest:
        return Likeliest(self.classes[place], self.logs[place])

    def flattened(self) -> Likeliest:
        """As [rows, kept]."""
        return Likeliest(self.classes.flatten(0, -2), self.logs.flatten(0, -2))

    @property
    def nbytes(self) -> int:
        """That it takes in memory."""
        return int(self.classes.nbytes + self.logs.nbytes)


def sparse_loss(student: Tensor, teacher: Likeliest, true: Tensor | None, trusted: float) -> Tensor:
    """(1 - trusted) KL(teacher || student) + trusted x cross-entropy, mean over rows, in nats.

    The KL is that of the likeliest classes and of all others as one: at most the whole one.

    Args:
        student: logits, float32 [rows, classes]; the gradient is the student's.
        teacher: of the same rows.
        true: classes, int64 [rows], `teach.UNKNOWN` where that is not known, where all of the loss
            is the distance; None: of no row.
        trusted: 0 to 1.
    """
    found: Tensor = _Sparse.apply(student, teacher, true, trusted)  # type: ignore[no-untyped-call]
    return found


class _Sparse(torch.autograd.Function):
    """With p the teacher's, q the student's, r and s what they leave to the rest: the gradient is
    q - p at the classes that are kept, and q (1 - r / s) at all others."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Likeliest, true: Tensor | None, trusted: float
    ) -> Tensor:
        logs = student.log_softmax(-1)
        classes, p_logs = teacher.classes.long(), teacher.logs.float()
        p = p_logs.exp()
        p = p / p.sum(-1, keepdim=True).clamp(min=1.0)  # half precision rounds up too
        q_logs = logs.gather(-1, classes)
        rest = (1 - p.sum(-1)).clamp(min=0.0)
        left = (1 - q_logs.exp().sum(-1)).clamp(min=_LEAST)
        apart = (p * (p_logs - q_logs)).nan_to_num(0.0).sum(-1)  # ruled out: adds nothing
        apart += torch.where(rest > 0, rest * (rest.clamp(min=_LEAST) / left).log(), 0.0)
        count, (rows, known, trust) = len(logs), trust_of(true, trusted, len(logs), logs.device)
        loss = (torch.dot(1 - trust, apart) - trusted * logs[rows, known].sum()) / count
        gradient = logs.exp_()
        kept = gradient.gather(-1, classes) - (1 - trust)[:, None] * p
        gradient *= ((1 - (1 - trust) * rest / left) / count)[:, None]
        gradient.scatter_(-1, classes, kept / count)
        gradient[rows, known] -= trusted / count
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return scaled(gradient, above[0]), None, None, None


def trust_of(
    true: Tensor | None, trusted: float, count: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows whose class is known, that class, and of every row the share of the loss that it is."""
    trust = torch.zeros(count, device=device)
    if true is None:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return nothing, nothing, trust
    rows = (true != UNKNOWN).nonzero()[:, 0]
    trust[rows] = trusted
    return rows, true[rows], trust


def scaled(gradient: Tensor, above: Tensor) -> Tensor:
    """A gradient that was formed with its loss, times that of the loss; mostly that is 1."""
    return gradient if float(above) == 1 else gradient * above


@dataclass
class Remembered:
    """A teacher that is asked of every text once.

    Attributes:
        ask: texts, int64 [texts, tokens] -> logits of the token after each but the last,
            [texts, tokens - 1, classes].
        kept: classes of a row.
        most: bytes of memory; texts that come when it is full are asked for each time.
        nbytes: taken so far.
    """

    ask: Callable[[Tensor], Tensor]
    kept: int = KEPT
    most: int = 1 << 30
    nbytes: int = 0
    _known: dict[bytes, Likeliest] = field(default_factory=dict)

    def __call__(self, texts: Tensor) -> Likeliest:
        """What it says of texts, int64 [texts, tokens]: [texts, tokens - 1, kept].

        Each is asked for alone, so that what is said does not depend on what stands beside it.
        """
        found = []
        for text in texts:
            known = self._known.get(_name(text))
            if known is None:
                known = Likeliest.of(self.ask(text[None]), self.kept)
                self.learn(text[None], known)
            found.append(known)
        return Likeliest.joined(found)

    def learn(self, texts: Tensor, said: Likeliest) -> None:
        """Texts, int64 [texts, tokens], and what the teacher says of them."""
        for i, text in enumerate(texts):
            one = said[i : i + 1]
            if self.nbytes + one.nbytes > self.most:
                return
            self._known[_name(text)] = one
            self.nbytes += one.nbytes


def _name(text: Tensor) -> bytes:
    return hashlib.blake2b(text.numpy(force=True).tobytes(), digest_size=16).digest()
