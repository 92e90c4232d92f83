"""A request asked again of a fleet and of the full model: who answers what, and at what cost.

Both get the true answer token by token, and give their likelihoods of it: that is what an answer is
judged by. A need that the log holds apart is asked of the full model by itself, which is the best
that it can do; the fleet gets the text of all of them, and has to find the needs.

Where the specialist is less sure than its reserve allows, the full model reads on from there, at
the next place where a token of both begins, and writes as many tokens as the reserve says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.fleet.fleet import FULL
from sprue.fleet.flops import Flops
from sprue.fleet.reserve import Reserve
from sprue.fleet.scoring import Need, Read, Tokens

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """What one model makes of a need.

    Attributes:
        tokens: of it, in the model's own.
        read: what the model says of the answer.
        places: where each token of the answer begins, in characters, and where the last one ends.
    """

    tokens: Tokens
    read: Read
    places: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """A need as the fleet got it.

    Attributes:
        capability: that it is of, if the log says; None: it does not.
        model: that got it.
        need: with the prompt that this model got.
        full: what the full model makes of it where it is asked as the log holds it.
        by: what `model` makes of it.
        rest: what the full model makes of it with the fleet's prompt; None: it is FULL itself, or
            nothing is ever handed over.
    """

    capability: str | None
    model: str
    need: Need
    full: Reading
    by: Reading
    rest: Reading | None = None


@dataclass(frozen=True)
class Turn:
    """What came of a need.

    Attributes:
        nats: of the whole answer.
        by_full: share of its tokens that the full model wrote.
        calls: how often the full model was called.
        own: floating-point operations of the model that got it.
        handed: of the full model for what was handed over.
    """

    nats: float
    by_full: float
    calls: int
    own: float
    handed: float


def places_of(tokenizer: Any, answer: str, tokens: Sequence[int]) -> tuple[int, ...]:
    """Where each token of an answer begins, in characters, and where the last one ends."""
    found = tokenizer(
        answer, add_special_tokens=False, verbose=False, return_offsets_mapping=True
    ).offset_mapping
    assert len(found) == len(tokens)
    return (*(begin for begin, _ in found), len(answer))


def doubts(read: Read, doubt: str, vocabulary: int) -> F64:
    """How unsure a model is before each token, 0 to 1.

    Args:
        read: what the model says.
        doubt: "margin" or "entropy".
        vocabulary: tokens that there are.
    """
    found = 1 - read.margin if doubt == "margin" else read.entropy / math.log(vocabulary)
    return found.numpy()


def running(each: F64, over: int) -> F64:
    """The mean over the last steps, up to so many."""
    sums = np.concatenate([[0.0], np.cumsum(each)])
    ends = np.arange(1, len(sums))
    begins = np.maximum(0, ends - over)
    found: F64 = (sums[ends] - sums[begins]) / (ends - begins)
    return found


def turn(asked: Asked, flops: Mapping[str, Flops], reserve: Reserve | None, size: int) -> Turn:
    """What comes of a need with a reserve.

    Args:
        asked: the need.
        flops: model -> what it computes.
        reserve: when the full model is called; None: never.
        size: vocabulary of the model that got it.
    """
    mine, prompt = asked.by, len(asked.by.tokens.prompt)
    nats, count = mine.read.nats.numpy(), len(mine.tokens.answer)
    alone = float(flops[asked.model].answer(prompt, count))
    if asked.model == FULL or reserve is None or asked.rest is None:
        return Turn(float(nats.sum()), float(asked.model == FULL), 0, alone, 0.0)
    parts = handed(asked, reserve, size)
    if not parts:
        return Turn(float(nats.sum()), 0.0, 0, alone, 0.0)
    theirs = asked.rest
    total, written, last = float(nats.sum()), 0, 0
    for (a, b), (c, d) in parts:
        total += float(theirs.read.nats[c:d].sum()) - float(nats[a:b].sum())
        written += d - c
        last = d
    full = flops[FULL]
    taken = full.reads(len(theirs.tokens.prompt) + last - 1) + written * full.head
    own = _own(flops[asked.model], prompt, count, parts)
    return Turn(total, written / len(theirs.tokens.answer), len(parts), own, float(taken))


Part = tuple[tuple[int, int], tuple[int, int]]


def handed(asked: Asked, reserve: Reserve, size: int) -> list[Part]:
    """Tokens that the full model writes: (of the specialist's, of its own) for each call.

    A specialist that takes over again has not looked at what was written meanwhile: its doubt is
    that of the steps since then.

    Args:
        asked: a need that a specialist got.
        reserve: when the full model is called.
        size: vocabulary of the specialist.
    """
    assert asked.rest is not None
    each = doubts(asked.by.read, reserve.doubt, size)
    mine = {place: i for i, place in enumerate(asked.by.places)}
    theirs = {place: i for i, place in enumerate(asked.rest.places)}
    shared = sorted(set(mine) & set(theirs))
    found: list[Part] = []
    at, count = 0, len(each)
    while at < count:
        unsure = np.flatnonzero(running(each[at:], reserve.over) > reserve.threshold)
        if not len(unsure):
            break
        begin = _from(shared, asked.by.places[at + int(unsure[0])])
        a, c = mine[begin], theirs[begin]
        if a >= count:
            break
        hold = len(asked.rest.tokens.answer) if reserve.hold is None else reserve.hold
        end = _from(shared, asked.rest.places[min(c + hold, len(asked.rest.places) - 1)])
        b, d = mine[end], theirs[end]
        found.append(((a, b), (c, d)))
        at = b
    return found


def _from(shared: Sequence[int], place: int) -> int:
    """The first place from here on where tokens of both begin, or the end."""
    return shared[min(int(np.searchsorted(shared, place)), len(shared) - 1)]


def _own(flops: Flops, prompt: int, count: int, parts: Sequence[Part]) -> float:
    """Of a specialist: it reads all but what is behind the last token that it writes."""
    rest = parts[-1][0][1] == count  # the end was handed over
    last = parts[-1][0][0] if rest else count - 1
    asked = count - sum(b - a for (a, b), _ in parts) + len(parts)
    return float(flops.reads(prompt + last) + asked * flops.head)


@dataclass(frozen=True)
class Request:
    """A request and what came of it.

    Attributes:
        name: of it.
        needs: as the fleet got them.
        router: floating-point operations that deciding took.
        right: whether every need went where its capability says; None: no one knows.
        spans: parts that the fleet took it apart into; what goes to the full model stays whole.
    """

    name: str
    needs: tuple[Asked, ...]
    router: float
    right: bool | None = None
    spans: int = 1
