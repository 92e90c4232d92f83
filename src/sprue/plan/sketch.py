"""What a teacher says of a text, kept small, so that it is asked only once.

Of a row of logits the log probabilities of the likeliest classes are kept, and those of a few that
are drawn from all others. In the loss the likeliest count as much as they are likely, and those
drawn share what is left: the gradient is then in the mean that of the whole distance. The likeliest
alone would teach nothing of the rest but how much it is, and of a vocabulary of 4,096 the true
token is one time in seven not among 64 (Anshumann et al. 2025, arXiv:2503.16870, sections 3 and 4,
where all are drawn; here only the rest is, which varies less).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sprue.plan.teach import UNKNOWN

KEPT, DRAWN = 48, 16


@dataclass(frozen=True)
class Sketch:
    """Of every row some classes.

    Attributes:
        classes: int32 [..., kept + drawn]; among those drawn one may come several times.
        logs: their log probabilities, float16 [..., kept + drawn].
        drawn: how many of them, the last ones, were drawn from all that are not kept.
    """

    classes: Tensor
    logs: Tensor
    drawn: int = 0

    @classmethod
    def of(
        cls,
        logits: Tensor,
        generator: torch.Generator,
        kept: int = KEPT,
        drawn: int = DRAWN,
    ) -> Sketch:
        """Of logits [..., classes].

        Args:
            logits: floats.
            generator: on the same device, for what is drawn.
            kept: the likeliest classes, so many; if there are no more than `kept` and `drawn`
                together, all are kept and none is drawn.
            drawn: of the rest.
        """
        logs = logits.float().log_softmax(-1)
        if logs.shape[-1] <= kept + drawn:
            kept, drawn = logs.shape[-1], 0
        best = logs.topk(kept, -1)
        if not drawn:
            return cls(best.indices.to(torch.int32), best.values.half())
        rest = logs.exp().scatter_(-1, best.indices, 0.0)
        classes = torch.cat([best.indices, spread(rest, drawn, generator)], -1)
        return cls(classes.to(torch.int32), logs.gather(-1, classes).half(), drawn)

    @classmethod
    def joined(cls, parts: list[Sketch], dim: int = 0) -> Sketch:
        """Parts side by side, or behind one another."""
        (drawn,) = {one.drawn for one in parts}
        return cls(
            torch.cat([one.classes for one in parts], dim),
            torch.cat([one.logs for one in parts], dim),
            drawn,
        )

    def __getitem__(self, place: Any) -> Sketch:
        return Sketch(self.classes[place], self.logs[place], self.drawn)

    def flattened(self) -> Sketch:
        """As [rows, kept + drawn]."""
        return Sketch(self.classes.flatten(0, -2), self.logs.flatten(0, -2), self.drawn)

    def weights(self) -> Tensor:
        """What each class counts, float32 [..., kept + drawn], 1 in every row."""
        kept = self.logs.shape[-1] - self.drawn
        found = self.logs.float().exp()
        best = found[..., :kept]
        best /= best.sum(-1, keepdim=True).clamp(min=1.0 if self.drawn else 0.0)
        if self.drawn:
            found[..., kept:] = (1 - best.sum(-1, keepdim=True)).clamp(min=0.0) / self.drawn
        return found

    @property
    def nbytes(self) -> int:
        """That it takes in memory."""
        return int(self.classes.nbytes + self.logs.nbytes)


def spread(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many classes of each row, in the mean as often as they weigh, int64 [..., count].

    They lie evenly on the sum of the weights, from a place that is drawn (systematic sampling): one
    uniform number a row, where `torch.multinomial` draws one for every class, which with the
    vocabularies of language models takes a fifth of the time of writing.

    Args:
        weights: 0 or more, float32 [..., classes].
        count: of classes; one may come several times.
        generator: on the same device.
    """
    ends = weights.cumsum(-1)
    shape, device = (*weights.shape[:-1], 1), weights.device
    begin = torch.rand(shape, generator=generator, device=device)
    at = (torch.arange(count, device=device) + begin) / count * ends[..., -1:]
    return torch.searchsorted(ends, at, right=True).clamp_(max=weights.shape[-1] - 1)


def sketched_loss(student: Tensor, teacher: Sketch, true: Tensor | None, trusted: float) -> Tensor:
    """(1 - trusted) KL(teacher || student) + trusted x cross-entropy, mean over rows, in nats.

    The KL is estimated from what is kept of the teacher; estimate and gradient are right in the
    mean over what is drawn.

    Args:
        student: logits, float32 [rows, classes]; the gradient is the student's.
        teacher: of the same rows.
        true: classes, int64 [rows], `teach.UNKNOWN` where that is not known, where all of the loss
            is the distance; None: of no row.
        trusted: 0 to 1.
    """
    with torch.no_grad():
        logs, classes, p = student.log_softmax(-1), teacher.classes.long(), teacher.weights()
        apart = torch.where(p > 0, p * (teacher.logs.float() - logs.gather(-1, classes)), 0.0)
        count, (rows, known, trust) = len(logs), trust_of(true, trusted, len(logs), logs.device)
        loss = (torch.dot(1 - trust, apart.sum(-1)) - trusted * logs[rows, known].sum()) / count
        gradient = logs.exp_().div_(count)
        gradient.scatter_add_(-1, classes, p * ((trust - 1) / count)[:, None])
        gradient[rows, known] -= trusted / count
    return formed(student, loss, gradient)


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


def formed(student: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
    """A loss of logits whose gradient was formed with it, of the shape of the logits."""
    found: Tensor = _Formed.apply(student, loss, gradient)  # type: ignore[no-untyped-call]
    return found


class _Formed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient if float(above[0]) == 1 else gradient * above[0], None, None


@dataclass
class Remembered:
    """A teacher that is asked of every text once.

    Attributes:
        ask: texts, int64 [texts, tokens] -> logits of the token after each but the last,
            [texts, tokens - 1, classes].
        kept, drawn: classes of a row.
        most: bytes of memory; texts that come when it is full are asked for each time.
        nbytes: taken so far.
    """

    ask: Callable[[Tensor], Tensor]
    kept: int = KEPT
    drawn: int = DRAWN
    most: int = 1 << 30
    nbytes: int = 0
    _known: dict[bytes, Sketch] = field(default_factory=dict)

    def __call__(self, texts: Tensor) -> Sketch:
        """What it says of texts, int64 [texts, tokens]: [texts, tokens - 1, kept + drawn].

        Each is asked for alone and draws from a seed of its own, so that what is said depends
        neither on what stands beside it nor on when it is asked.
        """
        found = []
        for text in texts:
            name = _name(text)
            known = self._known.get(name)
            if known is None:
                logits = self.ask(text[None])
                seed = int.from_bytes(name[:7], "little")
                generator = torch.Generator(device=logits.device).manual_seed(seed)
                known = Sketch.of(logits, generator, self.kept, self.drawn)
                self.learn(text[None], known)
            found.append(known)
        return Sketch.joined(found)

    def learn(self, texts: Tensor, said: Sketch) -> None:
        """Texts, int64 [texts, tokens], and what the teacher says of them."""
        for i, text in enumerate(texts):
            one = said[i : i + 1]
            if self.nbytes + one.nbytes > self.most:
                return
            self._known[_name(text)] = one
            self.nbytes += one.nbytes


def _name(text: Tensor) -> bytes:
    return hashlib.blake2b(text.numpy(force=True).tobytes(), digest_size=16).digest()
