"""Traffic asked of a fleet and of the full model: every answer read by whoever gets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sprue.errors import InputError
from sprue.fleet.conversation import Conversations
from sprue.fleet.fleet import FULL, Fleet, Step, ends, prompts, steps
from sprue.fleet.replayed import Asked, Reading, Request, places_of
from sprue.fleet.router import Router
from sprue.fleet.scoring import Need, read
from sprue.fleet.served import Served
from sprue.usage.exchanges import JOINT, Exchange


@dataclass(frozen=True)
class _Planned:
    """A need before anyone has read it."""

    request: int
    capability: str | None
    model: str
    need: Need
    own: Need


def asked(
    exchanges: Sequence[Exchange],
    fleet: Fleet,
    router: Router,
    models: Mapping[str, Served],
    advance: Callable[[int], object] = lambda count: None,
) -> list[Request]:
    """What comes of requests whose answers are known.

    Args:
        exchanges: with answers.
        fleet: who answers what.
        router: what decides.
        models: by name, FULL among them.
        advance: called with how many answers were read, as they are; each is read two or three
            times.

    Raises:
        InputError: an answer that a model cannot read.
    """
    planned: list[_Planned] = []
    heads: list[tuple[float, bool | None, int]] = []
    held = Conversations(limit=1 + len(exchanges), seconds=float("inf"))
    for i, one in enumerate(exchanges):
        found, routed, spans = _planned(i, one, fleet, router)
        moved = [replace(p, model=held.model(one.conversation, p.model)) for p in found]
        planned += moved
        right = None if one.capability is None and len(one.asked) == 1 else _right(moved, fleet)
        heads.append((routed, right, spans))
    needs = _read(planned, models, advance)
    found_of: dict[int, list[Asked]] = {}
    for p, need in zip(planned, needs, strict=True):
        found_of.setdefault(p.request, []).append(need)
    return [
        Request(one.request or str(i + 1), tuple(found_of[i]), *heads[i])
        for i, one in enumerate(exchanges)
    ]


def _right(planned: Sequence[_Planned], fleet: Fleet) -> bool | None:
    """Whether all went where their capabilities say; None: not all of them are told."""
    if any(p.capability is None for p in planned):
        return None
    return all(
        p.model == (p.capability if p.capability in fleet.specialists else FULL) for p in planned
    )


def _planned(
    number: int, one: Exchange, fleet: Fleet, router: Router
) -> tuple[list[_Planned], float, int]:
    """Of each need who gets it, with which prompt; what deciding took; how many parts there are."""
    text = one.text
    if one.named is not None and one.named not in router.capabilities:
        raise InputError(
            f"request {one.request or number + 1} names a capability that the router does not "
            f"know: {one.named!r}"
        )
    parts = steps(text, fleet, router, one.named)
    stops, said_to = ends(text, parts), prompts(text, parts)
    capabilities = _capabilities(one)
    found, at = [], 0
    for said, answer, capability in zip(one.asked, one.answered, capabilities, strict=True):
        end = at + len(said)
        i = max(range(len(parts)), key=lambda k: _shared(parts[k], stops[k], at, end))
        inside = said_to[i]
        if _within(stops[i], one, end):  # one span for several needs
            inside = text[parts[i].span.start : end]
        found.append(
            _Planned(number, capability, parts[i].model, Need(inside, answer), Need(said, answer))
        )
        at = end + len(JOINT)
    return found, 0.0 if one.named is not None else float(router.flops(text)), len(parts)


def _shared(part: Step, end: int, a: int, b: int) -> int:
    """Characters of a need that lie in a span."""
    return min(end, b) - max(part.span.start, a)


def _within(end: int, one: Exchange, stop: int) -> bool:
    """Whether a span holds most of another need behind this one."""
    rest = sum(len(said) for said in one.asked) + len(JOINT) * (len(one.asked) - 1) - stop
    return rest > 0 and end - stop > rest / 2


def _capabilities(one: Exchange) -> list[str | None]:
    """Of each part: a log says several as "a+b"."""
    if one.capability is None:
        return [None] * len(one.asked)
    names = one.capability.split("+")
    if len(names) == len(one.asked):
        return [name or None for name in names]
    return [one.capability if len(one.asked) == 1 else None] * len(one.asked)


def _read(
    planned: Sequence[_Planned],
    models: Mapping[str, Served],
    advance: Callable[[int], object],
) -> list[Asked]:
    """Every need by the full model as the log holds it, and by whoever got it."""
    whole = _readings(models[FULL], [p.own for p in planned], advance)
    mine: dict[int, Reading] = {}
    rest: dict[int, Reading] = {}
    for name, served in models.items():
        places = [i for i, p in enumerate(planned) if p.model == name]
        some = [i for i in places if name != FULL or planned[i].need != planned[i].own]
        found = _readings(served, [planned[i].need for i in some], advance)
        mine |= dict(zip(some, found, strict=True))
    other = [i for i, p in enumerate(planned) if p.model != FULL and p.need != p.own]
    found = _readings(models[FULL], [planned[i].need for i in other], advance)
    rest |= dict(zip(other, found, strict=True))
    return [
        Asked(
            p.capability,
            p.model,
            p.need,
            whole[i],
            mine.get(i, whole[i]),
            None if p.model == FULL else rest.get(i, whole[i]),
        )
        for i, p in enumerate(planned)
    ]


def _readings(
    served: Served, needs: Sequence[Need], advance: Callable[[int], object]
) -> list[Reading]:
    tokens = [served.tokens(need) for need in needs]
    found = read(served.model, tokens, advance) if tokens else []
    return [
        Reading(t, r, places_of(served.tokenizer, need.answer, t.answer))
        for need, t, r in zip(needs, tokens, found, strict=True)
    ]
