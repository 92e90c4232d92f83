"""The full model in reserve: it is called for the steps that a specialist is not sure of.

The specialist writes. Where its next token is less sure than the threshold allows, the full model
reads on from there and writes that one, and as many more as the setting says; then the specialist
takes over again. The threshold is found on texts of the capability, by what the full model would
have written (`risk.threshold`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sprue.errors import InputError
from sprue.fleet.draft import Reader
from sprue.fleet.risk import threshold

Doubt = Callable[[Tensor], Tensor]  # logits [..., vocabulary] -> 0 (sure) to 1 (not at all) [...]


def margin(logits: Tensor) -> Tensor:
    """One less the lead of the likeliest token over the next, in probability."""
    best = torch.softmax(logits.double(), -1).topk(2, -1).values
    return 1 - (best[..., 0] - best[..., 1])


def entropy(logits: Tensor) -> Tensor:
    """Of the next token, over that of all tokens alike."""
    p = torch.log_softmax(logits.double(), -1)
    return -(p.exp() * p).sum(-1) / math.log(logits.shape[-1])


DOUBTS: dict[str, Doubt] = {"margin": margin, "entropy": entropy}


@dataclass(frozen=True)
class Reserve:
    """When the full model is called, and for how long.

    Attributes:
        threshold: doubt above which a step is not left to the specialist.
        doubt: one of DOUBTS.
        hold: tokens that the full model then writes before the specialist takes over again; None:
            all that follow.
        over: steps of the answer over which the doubt is averaged, the last ones.
    """

    threshold: float
    doubt: str = "margin"
    hold: int | None = 1
    over: int = 1

    def __post_init__(self) -> None:
        if self.doubt not in DOUBTS:
            raise InputError(f"expected a doubt among {', '.join(DOUBTS)}, got {self.doubt!r}")
        if self.hold is not None and self.hold < 1:
            raise InputError(f"expected the full model to write at least 1 token, got {self.hold}")
        if self.over < 1:
            raise InputError(f"expected a doubt over at least 1 step, got {self.over}")
        if math.isnan(self.threshold):
            raise InputError("expected a threshold, got NaN")

    @property
    def never(self) -> bool:
        """Whether the full model is called at no doubt at all, so that none needs to be known."""
        return self.threshold == math.inf

    def unsure(self, logits: Tensor, seen: list[float]) -> float | None:
        """The doubt before a step where it is above the threshold, else None.

        Args:
            logits: of the step, float [vocabulary].
            seen: doubts of the steps since the specialist began to write; this one is added, where
                it is looked at.
        """
        if self.never:
            return None
        seen.append(float(DOUBTS[self.doubt](logits)))
        last = seen[-self.over :]
        mean = sum(last) / len(last)
        return mean if mean > self.threshold else None


@dataclass(frozen=True)
class Answer:
    """What was written.

    Attributes:
        ids: the new tokens; an end token ends them and is not among them.
        escalated: of each whether the full model wrote it.
        calls: how often it was called.
    """

    ids: tuple[int, ...]
    escalated: tuple[bool, ...]
    calls: int


def answer(
    full: Reader,
    specialist: Reader,
    ids: Sequence[int],
    count: int,
    reserve: Reserve,
    *,
    stop: frozenset[int] = frozenset(),
) -> Answer:
    """Continue a text by the specialist, the full model in reserve; the likeliest token each time.

    Args:
        full, specialist: of one vocabulary.
        ids: the text, at least one token.
        count: of new tokens, at most.
        reserve: when the full model is called.
        stop: tokens that end it.

    Raises:
        InputError: an empty text, or a count below 1.
    """
    if not ids or count < 1:
        raise InputError(
            f"expected at least one token to continue and one to add, got {len(ids)} and {count}"
        )
    text, escalated, calls, left = list(ids), list[bool](), 0, 0
    seen: list[float] = []  # doubts since the specialist has written
    while len(escalated) < count:
        logits = None if left else specialist.read(text)[-1]
        if logits is not None and reserve.unsure(logits, seen) is not None:
            logits, calls = None, calls + 1
            seen.clear()
            left = count if reserve.hold is None else reserve.hold
        token = int((full.read(text)[-1] if logits is None else logits).argmax())
        if token in stop:
            break
        text.append(token)
        escalated.append(logits is None)
        left = max(0, left - 1)
    return Answer(tuple(text[len(ids) :]), tuple(escalated), calls)


def calibrated(
    full: Reader,
    specialist: Reader,
    texts: Sequence[Sequence[int]],
    allowed: float,
    *,
    doubt: str = "margin",
    hold: int | None = 1,
) -> Reserve:
    """The reserve at which so few steps differ from what the full model would have written.

    Args:
        full, specialist: of one vocabulary.
        texts: tokens of texts of the capability, none of which the specialist was made with.
        allowed: share of all steps at which the specialist may write another token than the full
            model would have.

    Raises:
        InputError: no texts of two tokens or more.
    """
    reserve = Reserve(math.inf, doubt, hold)
    doubts: list[float] = []
    lost: list[float] = []
    for ids in (list(text) for text in texts if len(text) > 1):
        mine, theirs = (_all(reader, ids) for reader in (specialist, full))
        doubts += DOUBTS[doubt](mine).tolist()
        lost += (mine.argmax(-1) != theirs.argmax(-1)).double().tolist()
    if not doubts:
        raise InputError("expected texts of two tokens or more to find the threshold on, got none")
    return replace(reserve, threshold=threshold(doubts, lost, allowed))


def _all(reader: Reader, ids: Sequence[int]) -> Tensor:
    """Logits after every token of a text but the last; what was read before is forgotten."""
    reader.forget()
    return reader.read(ids[:-1])
