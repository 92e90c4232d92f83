"""The same requests served step by step by the fleet and by the full model, by the clock.

Both write the true answer, token after token, with keys and values cached, as they would an answer
of their own; the fleet splits and routes the text first, weighs its doubt at every step where that
could be too high, and hands over where it has to. They take turns, the one that begins being the
other each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sprue.fleet.draft import Cached
from sprue.fleet.fleet import FULL, Fleet, steps
from sprue.fleet.replayed import Asked, Reading, Request, handed
from sprue.fleet.reserve import DOUBTS, Reserve
from sprue.fleet.router import Router
from sprue.fleet.served import Served


@dataclass(frozen=True)
class Times:
    """Of one request.

    Attributes:
        full, fleet: seconds by the clock, and CPU seconds of all threads.
    """

    full: tuple[float, float]
    fleet: tuple[float, float]


def clocked(
    requests: Sequence[tuple[str, bool, Request]],
    fleet: Fleet,
    router: Router,
    models: Mapping[str, Served],
    reserves: Mapping[str, Reserve],
    advance: Callable[[], object] = lambda: None,
) -> list[Times]:
    """How long each takes.

    Args:
        requests: text, whether the caller named its capability, and what came of it.
        fleet, router, models: as for `asking.asked`.
        reserves: specialist -> its reserve.
        advance: called after every request.
    """
    found = []
    for i, (text, named, request) in enumerate(requests):
        done: dict[str, tuple[float, float]] = {}
        for which in ("full", "fleet") if i % 2 else ("fleet", "full"):
            clock, cpu = time.perf_counter(), time.process_time()
            if which == "full":
                for need in request.needs:
                    _write(models[FULL], need.full)
            else:
                if not named:
                    steps(text, fleet, router)
                for need in request.needs:
                    _serve(need, models, reserves.get(need.model))
            done[which] = time.perf_counter() - clock, time.process_time() - cpu
        found.append(Times(done["full"], done["fleet"]))
        advance()
    return found


def _write(served: Served, reading: Reading) -> None:
    """All of an answer by one model."""
    reader, ids = Cached(served.model), list(reading.tokens.prompt)
    for token in reading.tokens.answer:
        reader.read(ids)
        ids.append(token)


def _serve(asked: Asked, models: Mapping[str, Served], reserve: Reserve | None) -> None:
    """By the model that got it, the full one in reserve."""
    mine = models[asked.model]
    if reserve is None or reserve.never or asked.rest is None:
        _write(mine, asked.by)
        return
    doubt = DOUBTS[reserve.doubt]
    own, full = Cached(mine.model), Cached(models[FULL].model)
    prompt, answer = list(asked.by.tokens.prompt), asked.by.tokens.answer
    whole, theirs = list(asked.rest.tokens.prompt), asked.rest.tokens.answer
    at = 0
    for (a, b), (c, d) in [*handed(asked, reserve, mine.model.config.vocab_size), _end(asked)]:
        for t in range(at, min(a + 1, len(answer))):
            doubt(own.read([*prompt, *answer[:t]])[-1])
        for t in range(c, d):
            full.read([*whole, *theirs[:t]])
        at = b


def _end(asked: Asked) -> tuple[tuple[int, int], tuple[int, int]]:
    """Nothing is handed over from the end on."""
    count = len(asked.by.tokens.answer)
    return (count, count), (0, 0)
