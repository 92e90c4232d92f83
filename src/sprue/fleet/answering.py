"""An answer written by a fleet: specialists write, the full model takes over where it has to.

It does where a specialist is less sure than its reserve allows, from the last good token on, and
where a finished answer fails a check, from the last good character on. Models hand over text, so
that their vocabularies may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sprue.errors import InputError
from sprue.fleet.checks import Check, good
from sprue.fleet.draft import Cached
from sprue.fleet.fleet import FULL, Fleet, Step, prompts
from sprue.fleet.reserve import Reserve
from sprue.fleet.served import Served
from sprue.usage.exchanges import JOINT


@dataclass(frozen=True)
class Piece:
    """Text that one model wrote.

    Attributes:
        model: its name.
        text: what it wrote.
        why: what it was called for; "" where it was routed to.
    """

    model: str
    text: str
    why: str = ""


@dataclass(frozen=True)
class Written:
    """An answer to one need.

    Attributes:
        asked: the need.
        pieces: who wrote what, in order; what a check has struck out is not in it.
        failed: what is still wrong with it, by the checks.
    """

    asked: str
    pieces: tuple[Piece, ...]
    failed: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)


def answer(
    text: str,
    parts: Sequence[Step],
    fleet: Fleet,
    models: Mapping[str, Served],
    tokens: int,
) -> list[Written]:
    """What a fleet answers, need by need, in order; the likeliest token each time.

    Args:
        text: the request.
        parts: who answers what of it, from `fleet.steps`.
        fleet: its reserves and checks.
        models: by name, those of the parts and FULL.
        tokens: of each answer, at most.

    Raises:
        InputError: fewer than one token.
    """
    if tokens < 1:
        raise InputError(f"expected at least one token to write, got {tokens}")
    return [
        written(
            asked,
            models[part.model],
            models[FULL],
            tokens,
            fleet.reserves.get(part.model),
            fleet.checks.get(part.model, ()),
        )
        for part, asked in zip(parts, prompts(text, parts), strict=True)
    ]


def joined(answers: Sequence[Written]) -> str:
    """The answers merged in the order of their needs."""
    return JOINT.join(one.text.strip() if len(answers) > 1 else one.text for one in answers)


def written(
    asked: str,
    own: Served,
    full: Served,
    tokens: int,
    reserve: Reserve | None = None,
    checks: Sequence[Check] = (),
) -> Written:
    """An answer to one need by the model that got it, the full one in reserve."""
    pieces: list[Piece] = []
    left = tokens
    while left > 0:
        text, count, unsure = _write(own, asked, _text(pieces), left, reserve)
        left -= count
        if text:
            pieces.append(Piece(own.name, text))
        if unsure is None or own.name == FULL:
            break
        hold = left if reserve is None or reserve.hold is None else min(left, reserve.hold)
        why = f"doubt {unsure:.3f}"
        text, count, _ = _write(full, asked, _text(pieces), hold, None)
        pieces += [Piece(FULL, text, why)] if text else []
        left -= max(count, 1)
        if count < hold:  # it ended the answer
            break
    return _checked(asked, pieces, own, full, tokens, checks)


def _checked(
    asked: str,
    pieces: list[Piece],
    own: Served,
    full: Served,
    tokens: int,
    checks: Sequence[Check],
) -> Written:
    """Where a check fails, the full model writes on from what is good; once for each check."""
    for check in checks if own.name != FULL else ():
        text = _text(pieces)
        why = check(text)
        if why is None:
            continue
        pieces = _first(pieces, good(check, text))
        rest, _, _ = _write(full, asked, _text(pieces), tokens, None)
        pieces.append(Piece(FULL, rest, f"{check.name}: {why}"))
    text = _text(pieces)
    failed = [(check.name, check(text)) for check in checks]
    return Written(
        asked, tuple(pieces), tuple(f"{name}: {why}" for name, why in failed if why is not None)
    )


def _first(pieces: Sequence[Piece], characters: int) -> list[Piece]:
    found = []
    for piece in pieces:
        if characters <= 0:
            break
        found.append(Piece(piece.model, piece.text[:characters], piece.why))
        characters -= len(piece.text)
    return found


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _write(
    served: Served, asked: str, before: str, count: int, reserve: Reserve | None
) -> tuple[str, int, float | None]:
    """Text, its tokens, and the doubt that ended it; None: it came to an end."""
    tokenizer, reader = served.tokenizer, Cached(served.model)
    ids = list(tokenizer(asked + before, verbose=False).input_ids)
    room = max(1, served.context - count)
    ids = ids[-room:]
    if not ids:
        raise InputError("the request gives no token to begin from")
    stop = {served.model.config.eos_token_id, tokenizer.eos_token_id}
    seen: list[float] = []
    new: list[int] = []
    while len(new) < count:
        logits = reader.read([*ids, *new])[-1]
        unsure = None if reserve is None else reserve.unsure(logits, seen)
        if unsure is not None:
            return tokenizer.decode(new), len(new), unsure
        token = int(logits.argmax())
        if token in stop:
            break
        new.append(token)
    return tokenizer.decode(new), len(new), None
