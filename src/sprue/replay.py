"""The verb `replay`: the same traffic through a fleet and through its full model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from sprue.errors import InputError
from sprue.fleet.asking import asked as ask
from sprue.fleet.clocked import Times, clocked
from sprue.fleet.fleet import FULL, Fleet, router_of
from sprue.fleet.replay_report import (
    TOTAL,
    UNNAMED,
    Done,
    Point,
    ReplayReport,
    group_of,
    worse_by,
)
from sprue.fleet.replayed import Asked, Request, turn
from sprue.fleet.reserve import Reserve
from sprue.fleet.router import Router
from sprue.fleet.served import Served
from sprue.fleet.shadow import Risk, peak, thresholds
from sprue.outputs import check_writable
from sprue.proof import machine
from sprue.usage.exchanges import Exchange, read

TIMED = 60
_POINTS = 21  # of the curve


@dataclass(frozen=True)
class Terms:
    """What a replay is asked for.

    Attributes:
        keep: share of the quality of all answers together.
        shadow: logs that thresholds are found on; none: those of the fleet's file.
        risk: what may be lost with answers that stay with specialists.
        form: doubt, steps and tokens of reserves found on the shadow; its threshold is not used.
        timed: requests that are served by the clock.
        most: requests, the first ones; None: all.
        seed: of the sample that is timed.
    """

    keep: float = 0.99
    shadow: tuple[Path, ...] = ()
    risk: Risk = field(default_factory=Risk)
    form: Reserve = field(default_factory=lambda: Reserve(math.inf, "entropy", None, 16))
    timed: int = TIMED
    most: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise InputError(f"expected a share to keep above 0 and up to 1, got {self.keep:g}")
        if self.timed < 0 or (self.most is not None and self.most < 2):
            raise InputError("expected 0 or more requests to time, and 2 or more to replay")


def replay(
    logs: Sequence[str | Path],
    fleet: str | Path,
    terms: Terms | None = None,
    *,
    report: str | Path | None = None,
    figures: str | Path | None = None,
    progress: Callable[[str], object] = lambda words: None,
) -> ReplayReport:
    """Ask everything in some logs again, of both.

    Args:
        logs: JSON lines of requests with their answers.
        fleet: YAML file.
        terms: what is asked for.
        report: write the page here.
        figures: write the figures here as JSON.
        progress: called with a few words before every step.

    Raises:
        InputError: a log, fleet or model that cannot be used, or no answers to judge by.
    """
    terms = terms or Terms()
    check_writable(report, figures)
    traffic = _Traffic.of(logs, terms.most)
    shadow = _Traffic.of(terms.shadow, None) if terms.shadow else None
    job = _Job(Path(fleet), terms, progress)
    done = job.run(traffic, shadow, [str(log) for log in logs])
    if report is not None:
        Path(report).write_text(done.html(), encoding="utf-8")
    if figures is not None:
        text = json.dumps(done.as_dict(), indent=2) + "\n"
        Path(figures).write_text(text, encoding="utf-8")
    return done


@dataclass(frozen=True)
class _Traffic:
    """What logs hold."""

    exchanges: tuple[Exchange, ...]
    unanswered: int
    skipped: int

    @classmethod
    def of(cls, logs: Sequence[str | Path], most: int | None) -> _Traffic:
        found: list[Exchange] = []
        bad: list[str] = []
        for log in map(Path, logs):
            found += read(log, partial(_note, bad, log))
        answered = [one for one in found if one.answered]
        if len(answered) < 2:
            why = f"; {bad[0]}" if bad else ""
            raise InputError(
                f"{', '.join(map(str, logs))}: {len(answered)} requests with an answer, and a "
                f"replay judges two or more by what was answered{why}"
            )
        return cls(tuple(answered[:most]), len(found) - len(answered), len(bad))


@dataclass
class _Job:
    """One command at work."""

    file: Path
    terms: Terms
    progress: Callable[[str], object]

    @cached_property
    def fleet(self) -> Fleet:
        return Fleet.load(self.file)

    @cached_property
    def router(self) -> Router:
        return router_of(self.fleet, self.file)

    @cached_property
    def models(self) -> dict[str, Served]:
        self.progress("loading the models")
        named = {FULL: self.fleet.full, **self.fleet.specialists}
        return {name: Served.load(name, path) for name, path in named.items()}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Model -> tokens of its vocabulary."""
        return {
            name: int(one.model.config.get_text_config().vocab_size)
            for name, one in self.models.items()
        }

    def run(self, traffic: _Traffic, shadow: _Traffic | None, logs: Sequence[str]) -> ReplayReport:
        requests = self._asked(traffic.exchanges, "asking both")
        reserves = dict(self.fleet.reserves)
        if shadow is not None:
            needs = [
                n for r in self._asked(shadow.exchanges, "the shadow traffic") for n in r.needs
            ]
            reserves = thresholds(needs, self.sizes, self.terms.risk, self.terms.form)
        done = self._turns(traffic.exchanges, requests, reserves)
        times = self._clocked(traffic.exchanges, requests, reserves)
        full = self.models[FULL].flops
        names = sorted({n.capability or UNNAMED for r in requests for n in r.needs})
        groups = [group_of(name, _only(done, name), full) for name in names]
        several = [
            (e, r) for e, r in zip(traffic.exchanges, requests, strict=True) if len(e.asked) > 1
        ]
        told = [r.right for r in requests if r.right is not None]
        return ReplayReport(
            log=tuple(logs),
            fleet=str(self.file),
            keep=self.terms.keep,
            total=group_of(TOTAL, done, full, router=True),
            groups=tuple(sorted(groups, key=lambda group: -group.flops[0])),
            requests=len(requests),
            several=len(several),
            split=_mean([r.spans == len(e.asked) for e, r in several]),
            right=_mean(told),
            unanswered=traffic.unanswered,
            skipped=traffic.skipped,
            parts=self._parts(done),
            curve=self._curve(requests, reserves),
            reserves={name: _told(one) for name, one in sorted(reserves.items())},
            models=self._models(requests),
            times=tuple(times),
            machine=machine.stamp(),
        )

    def _asked(self, exchanges: Sequence[Exchange], words: str) -> list[Request]:
        count = [0]
        whole = 2 * sum(len(one.asked) for one in exchanges)

        def advance(more: int) -> None:
            count[0] += more
            self.progress(f"{words}: {100 * min(1.0, count[0] / whole):.0f}%")

        return ask(exchanges, self.fleet, self.router, self.models, advance)

    @cached_property
    def flops(self) -> dict[str, Any]:
        return {name: one.flops for name, one in self.models.items()}

    def _turns(
        self,
        exchanges: Sequence[Exchange],
        requests: Sequence[Request],
        reserves: Mapping[str, Reserve],
    ) -> Done:
        """In the order of the log: where the full model had to help, it keeps a conversation."""
        upward: set[str] = set()
        found = []
        for one, request in zip(exchanges, requests, strict=True):
            rows = []
            for need in request.needs:
                moved = _by_full(need) if one.conversation in upward else need
                came = turn(moved, self.flops, reserves.get(moved.model), self.sizes[moved.model])
                if came.calls and one.conversation:
                    upward.add(one.conversation)
                rows.append((moved, came))
            found.append((request, rows))
        return found

    def _clocked(
        self,
        exchanges: Sequence[Exchange],
        requests: Sequence[Request],
        reserves: Mapping[str, Reserve],
    ) -> list[Times]:
        count = min(self.terms.timed, len(requests))
        picked = np.random.default_rng(self.terms.seed).permutation(len(requests))[:count]
        some = [
            (exchanges[i].text, exchanges[i].named is not None, requests[i])
            for i in sorted(picked.tolist())
        ]
        shown = [0]

        def advance() -> None:
            shown[0] += 1
            self.progress(f"serving by the clock: {shown[0]} of {count}")

        return clocked(some, self.fleet, self.router, self.models, reserves, advance)

    def _parts(self, done: Done) -> dict[str, float]:
        """Shares of the full model's compute: what is saved, and what that costs."""
        full = self.models[FULL].flops
        whole = cut = longer = handed = 0.0
        for _, rows in done:
            for need, came in rows:
                own = full.answer(len(need.full.tokens.prompt), len(need.full.tokens.answer))
                whole += own
                handed += came.handed
                if need.model == FULL:
                    longer += came.own - own
                else:
                    cut += own - came.own
        router = sum(request.router for request, _ in done)
        left = sum(
            full.answer(len(n.full.tokens.prompt), len(n.full.tokens.answer))
            for _, rows in done
            for n, _ in rows
            if n.model == FULL
        )
        return {
            "cutting": cut / whole,
            "router": -router / whole,
            "reserve": -handed / whole,
            "prompts_of_unsplit_requests": -longer / whole,
            "left_to_the_full_model": left / whole,
        }

    def _curve(
        self, requests: Sequence[Request], reserves: Mapping[str, Reserve]
    ) -> tuple[Point, ...]:
        """From no need handed over to all of them, each specialist's doubts by their ranks."""
        mine = [n for r in requests for n in r.needs if n.model != FULL]
        if not mine:
            return ()
        form = next(iter(reserves.values()), self.terms.form)
        peaks: dict[str, list[float]] = {}
        for need in mine:
            size = self.sizes[need.model]
            peaks.setdefault(need.model, []).append(peak(need, form, size))
        full = self.models[FULL].flops
        found = []
        for share in np.linspace(0, 1, _POINTS).tolist():
            at = {name: _cut_at(values, share) for name, values in peaks.items()}
            rows, spent, whole, handed = [], 0.0, 0.0, 0
            for request in requests:
                spent += request.router
                for need in request.needs:
                    reserve = replace(form, threshold=at.get(need.model, math.inf))
                    came = turn(need, self.flops, reserve, self.sizes[need.model])
                    count = len(need.full.tokens.answer)
                    rows.append((request.name, float(need.full.read.nats.sum()), came.nats, count))
                    spent += came.own + came.handed
                    whole += full.answer(len(need.full.tokens.prompt), count)
                    handed += came.calls > 0
            worse = worse_by(rows)
            if worse is not None:
                found.append(Point(handed / len(mine), 1 - spent / whole, worse))
        return tuple(found)

    def _models(self, requests: Sequence[Request]) -> dict[str, dict[str, float]]:
        got = [n.model for r in requests for n in r.needs]
        return {
            name: {
                "bytes": one.nbytes,
                "flops": one.flops.body + one.flops.head,
                "needs": got.count(name),
            }
            for name, one in self.models.items()
        }


def _note(bad: list[str], log: Path, number: int, why: str) -> None:
    bad.append(f"{log}, line {number}: {why}")


def _by_full(need: Asked) -> Asked:
    if need.model == FULL or need.rest is None:
        return need
    return replace(need, model=FULL, by=need.rest, rest=None)


def _only(done: Done, name: str) -> Done:
    """The needs of one capability."""
    return [(r, [(n, t) for n, t in rows if (n.capability or UNNAMED) == name]) for r, rows in done]


def _cut_at(values: Sequence[float], share: float) -> float:
    """A threshold that this share of the peaks lies above."""
    if share <= 0:
        return math.inf
    if share >= 1:
        return -math.inf
    return float(np.quantile(values, 1 - share))


def _mean(values: Sequence[bool | None]) -> float | None:
    return sum(map(bool, values)) / len(values) if values else None


def _told(reserve: Reserve) -> dict[str, Any]:
    """JSON-able: an infinite threshold is a word."""
    told = asdict(reserve)
    if math.isinf(reserve.threshold):
        told["threshold"] = "never" if reserve.never else "always"
    return told
