"""Latency and throughput of two networks in their engine, timed in turns: A B A B.

Both meet the same conditions in every round, so each round gives a ratio, and the median of the
ratios is reported with its interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sprue.proof import intervals
from sprue.proof.energy import Counter
from sprue.proof.intervals import Estimate

ROUNDS = 15
_ROUND = 0.04  # seconds that each of both runs in a round, at least
_WARM = 3
_MOST = 2000  # calls in a round

Call = Callable[[], object]


@dataclass(frozen=True)
class Pace:
    """One network; medians over the rounds.

    Attributes:
        seconds: of a call, by the clock.
        cpu_seconds: of a call, over all cores.
        joules: of a call; None without a counter.
    """

    seconds: float
    cpu_seconds: float
    joules: float | None


@dataclass(frozen=True)
class Turns:
    """Both of them.

    Attributes:
        calls: of each in a round.
        rounds: so many.
        original, result: their paces.
        ratio: seconds, result over original; below 1 is faster.
        cpu_ratio: the same of CPU seconds.
    """

    calls: int
    rounds: int
    original: Pace
    result: Pace
    ratio: Estimate
    cpu_ratio: Estimate


def measure(
    original: Call,
    result: Call,
    *,
    rounds: int = ROUNDS,
    seconds: float = _ROUND,
    counter: Counter | None = None,
) -> Turns:
    """Time two calls in turns, after some that do not count.

    Args:
        original, result: each runs its network once.
        rounds: of both.
        seconds: that each takes in a round, about; one call at least.
        counter: of energy.
    """
    first = max(_first(original), _first(result))
    calls = int(np.clip(np.ceil(seconds / max(first, 1e-7)), 1, _MOST))
    table = []
    for i in range(rounds):
        pair = (original, result) if i % 2 == 0 else (result, original)
        paces = [_round(call, calls, counter) for call in pair]
        table.append(paces if i % 2 == 0 else paces[::-1])
    a, b = ([row[which] for row in table] for which in (0, 1))
    return Turns(
        calls,
        rounds,
        _middle(a),
        _middle(b),
        intervals.median([y.seconds / x.seconds for x, y in zip(a, b, strict=True)]),
        intervals.median([y.cpu_seconds / x.cpu_seconds for x, y in zip(a, b, strict=True)]),
    )


def _first(call: Call) -> float:
    """Seconds of a call once it is warm."""
    for _ in range(_WARM - 1):
        call()
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _round(call: Call, calls: int, counter: Counter | None) -> Pace:
    joules = counter.joules() if counter else 0.0
    cpu, begin = time.process_time(), time.perf_counter()
    for _ in range(calls):
        call()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    used = (counter.joules() - joules) / calls if counter else None
    return Pace(seconds / calls, max(cpu, 1e-9) / calls, used)


def _middle(paces: Sequence[Pace]) -> Pace:
    joules = [p.joules for p in paces if p.joules is not None]
    return Pace(
        float(np.median([p.seconds for p in paces])),
        float(np.median([p.cpu_seconds for p in paces])),
        float(np.median(joules)) if joules else None,
    )
