"""What a replay found: quality, latency and compute of a fleet beside its full model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sprue.fleet.clocked import Times
from sprue.fleet.fleet import FULL
from sprue.fleet.flops import Flops
from sprue.fleet.replayed import Asked, Request, Turn
from sprue.proof import intervals
from sprue.proof.form import asked, percent
from sprue.proof.intervals import CONFIDENCE, Estimate, Mean
from sprue.proof.machine import Machine

TOTAL, UNNAMED = "all", "(not told)"


@dataclass(frozen=True)
class Worse:
    """How much less likely the fleet finds the answers.

    Attributes:
        ratio: of its perplexity to the full model's.
        at_most: upper bound of that, one-sided, 95%.
    """

    ratio: Estimate
    at_most: float

    @property
    def at_least(self) -> float:
        """Of the quality that is kept, the lower bound."""
        return 1 / self.at_most


@dataclass(frozen=True)
class Group:
    """Needs of one capability, or all.

    Attributes:
        name: of the capability, TOTAL or UNNAMED.
        needs: how many.
        tokens: of their answers, the full model's.
        perplexity: full model's and fleet's.
        worse: the second over the first; None: too few needs for an interval.
        flops: full model's and fleet's; of the fleet's in all the router's work is a part.
        to_specialists: share of the needs that a specialist got.
        handed: share of these that the full model took a part of.
        by_full: share of all answers' tokens that the full model wrote in the fleet.
    """

    name: str
    needs: int
    tokens: int
    perplexity: tuple[float, float]
    worse: Worse | None
    flops: tuple[float, float]
    to_specialists: float
    handed: float
    by_full: float

    @property
    def saved(self) -> float:
        """Share of the full model's compute that the fleet does not spend."""
        return 1 - self.flops[1] / self.flops[0]

    def passed(self, keep: float) -> bool | None:
        """Whether at least so much is kept; None: no interval."""
        return None if self.worse is None else self.worse.at_least >= keep

    def as_dict(self, keep: float) -> dict[str, Any]:
        """JSON-able."""
        worse = None
        if self.worse is not None:
            ratio = self.worse.ratio
            worse = {
                "value": ratio.value,
                "low": ratio.low,
                "high": ratio.high,
                "kept_at_least": self.worse.at_least,
            }
        return {
            "name": self.name,
            "needs": self.needs,
            "tokens": self.tokens,
            "perplexity": {"full": self.perplexity[0], "fleet": self.perplexity[1]},
            "perplexity_ratio": worse,
            "passed": self.passed(keep),
            "flops": {"full": self.flops[0], "fleet": self.flops[1]},
            "saved": self.saved,
            "to_specialists": self.to_specialists,
            "handed_over": self.handed,
            "by_full": self.by_full,
        }


@dataclass(frozen=True)
class Point:
    """The fleet at one threshold of its reserves.

    Attributes:
        share: of the needs that specialists got, handed over.
        saved: share of the full model's FLOPs.
        worse: as of a group.
    """

    share: float
    saved: float
    worse: Worse


@dataclass(frozen=True)
class ReplayReport:
    """What came of it.

    Attributes:
        log, fleet: as they were named.
        keep: share of the quality that was asked for.
        total: of all needs.
        groups: of each capability that the log tells, by compute.
        requests, several: how many, and how many of them with several needs.
        split: share of those with several that were taken apart into as many; None: there are none.
        right: share of the requests that went where their capabilities say; None: no one knows.
        unanswered, skipped: requests without an answer, and lines that could not be read.
        parts: what each part of the fleet saves or costs, as shares of the full model's FLOPs.
        curve: over thresholds.
        reserves: specialist -> threshold, doubt, steps and tokens; what was used.
        models: name -> bytes, FLOPs for a token of an answer, needs.
        times: of a sample of the requests.
        machine: that it ran on.
    """

    log: tuple[str, ...]
    fleet: str
    keep: float
    total: Group
    groups: tuple[Group, ...]
    requests: int
    several: int
    split: float | None
    right: float | None
    unanswered: int
    skipped: int
    parts: Mapping[str, float]
    curve: tuple[Point, ...]
    reserves: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, float]]
    times: tuple[Times, ...]
    machine: Machine

    @property
    def passed(self) -> bool:
        """Whether all answers together keep what was asked for."""
        return bool(self.total.passed(self.keep))

    @property
    def cpu(self) -> Estimate | None:
        """Share of the CPU seconds that is saved, on the sample; None: nothing was timed."""
        if len(self.times) < 2:
            return None
        full, fleet = (
            np.array([getattr(t, name)[1] for t in self.times]) for name in ("full", "fleet")
        )
        return ratio_of(fleet, full).interval().through(lambda x: 1 - x)

    def latency(self, which: str, quantile: float) -> float | None:
        """Seconds by the clock of "full" or "fleet" for a request."""
        if not self.times:
            return None
        return float(np.quantile([getattr(t, which)[0] for t in self.times], quantile))

    @property
    def statement(self) -> str:
        """One sentence."""
        cpu = self.cpu
        seconds = "" if cpu is None else f" and {100 * cpu.value:.1f}% of the CPU seconds"
        least = self.total.worse.at_least if self.total.worse else 0.0
        how = "kept" if self.passed else "NOT kept"
        return (
            f"{100 * self.total.saved:.1f}% of the FLOPs{seconds} saved; at least "
            f"{percent(least)} of the quality with {100 * CONFIDENCE:.0f}% confidence: "
            f"{asked(self.keep)} {how}"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: all that the page shows."""
        cpu = self.cpu
        return {
            "log": list(self.log),
            "fleet": self.fleet,
            "statement": self.statement,
            "passed": self.passed,
            "keep": self.keep,
            "saved": {
                "flops": self.total.saved,
                "cpu_seconds": None
                if cpu is None
                else {"value": cpu.value, "low": cpu.low, "high": cpu.high},
            },
            "total": self.total.as_dict(self.keep),
            "capabilities": [group.as_dict(self.keep) for group in self.groups],
            "requests": self.requests,
            "several_needs": self.several,
            "split_as_asked": self.split,
            "routed_as_told": self.right,
            "unanswered": self.unanswered,
            "skipped_lines": self.skipped,
            "parts": dict(self.parts),
            "curve": [
                {
                    "handed_over": p.share,
                    "saved": p.saved,
                    "perplexity_ratio": p.worse.ratio.value,
                    "low": p.worse.ratio.low,
                    "high": p.worse.ratio.high,
                    "kept_at_least": p.worse.at_least,
                }
                for p in self.curve
            ],
            "reserves": {name: dict(one) for name, one in self.reserves.items()},
            "models": {name: dict(one) for name, one in self.models.items()},
            "latency_seconds": {
                which: {
                    "p50": self.latency(which, 0.5),
                    "p95": self.latency(which, 0.95),
                }
                for which in ("full", "fleet")
            },
            "timed_requests": len(self.times),
            "machine": asdict(self.machine),
        }

    def table(self) -> str:
        """For a terminal."""
        head = ("capability", "needs", "full", "fleet", "ratio", "kept at least", "saved", "full's")
        rows = [head, *(self._row(group) for group in (*self.groups, self.total))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        told = [f"{self.requests:,} requests, {self.several:,} of several needs"]
        if self.right is not None:
            told.append(f"{100 * self.right:.1f}% went where the log says")
        lines += ["", "; ".join(told)]
        a, b = self.latency("full", 0.5), self.latency("fleet", 0.5)
        if a is not None and b is not None:
            lines.append(
                f"latency of {len(self.times)} requests, p50: {1000 * a:.0f} ms the full model, "
                f"{1000 * b:.0f} ms the fleet"
            )
        return "\n".join([*lines, self.statement])

    def _row(self, group: Group) -> tuple[str, ...]:
        worse = group.worse
        return (
            group.name,
            f"{group.needs:,}",
            f"{group.perplexity[0]:.3f}",
            f"{group.perplexity[1]:.3f}",
            "" if worse is None else f"{worse.ratio.value:.4f}",
            "" if worse is None else percent(worse.at_least),
            f"{100 * group.saved:.1f}%",
            f"{100 * group.by_full:.1f}%",
        )

    def html(self) -> str:
        """One page with everything in it."""
        from sprue.fleet import replay_page

        return replay_page.render(self)


def ratio_of(above: Sequence[float] | np.ndarray[Any, Any], below: Any) -> Mean:
    """The ratio of two sums over the same units, with its error by linearization.

    Cochran, Sampling Techniques, section 6.4.
    """
    a, b = np.asarray(above, np.float64), np.asarray(below, np.float64)
    ratio = a.sum() / b.sum()
    spread = intervals.mean([(a - ratio * b) / b.mean()])
    return Mean(float(ratio), spread.error, spread.freedom)


def worse_by(pairs: Sequence[tuple[str, float, float, int]]) -> Worse | None:
    """From (request, nats of the full model, of the fleet, tokens) of each need.

    The request is the unit: its needs depend on one another. None: fewer than two.
    """
    sums: dict[str, list[float]] = {}
    for name, full, fleet, tokens in pairs:
        one = sums.setdefault(name, [0.0, 0.0])
        one[0] += fleet - full
        one[1] += tokens
    if len(sums) < 2:
        return None
    apart, counts = zip(*sums.values(), strict=True)
    found = ratio_of(np.array(apart), np.array(counts))
    return Worse(found.interval().through(math.exp), math.exp(found.at_most()))


Done = Sequence[tuple[Request, Sequence[tuple[Asked, Turn]]]]


def group_of(name: str, done: Done, flops: Flops, router: bool = False) -> Group:
    """Of needs.

    Args:
        name: of the group.
        done: requests with those of their needs that belong to it.
        flops: of the full model.
        router: whether the router's work is counted.
    """
    rows = [(r.name, need, turn) for r, some in done for need, turn in some]
    counts = [len(need.full.tokens.answer) for _, need, _ in rows]
    theirs = [float(need.full.read.nats.sum()) for _, need, _ in rows]
    ours = [turn.nats for _, _, turn in rows]
    mine = [turn for _, need, turn in rows if need.model != FULL]
    spent = sum(turn.own + turn.handed for _, _, turn in rows)
    spent += sum(r.router for r, some in done if some) if router else 0.0
    whole = sum(
        flops.answer(len(n.full.tokens.prompt), c)
        for (_, n, _), c in zip(rows, counts, strict=True)
    )
    names = [name for name, _, _ in rows]
    return Group(
        name,
        len(rows),
        sum(counts),
        (math.exp(sum(theirs) / sum(counts)), math.exp(sum(ours) / sum(counts))),
        worse_by(list(zip(names, theirs, ours, counts, strict=True))),
        (float(whole), float(spent)),
        len(mine) / len(rows),
        sum(turn.calls > 0 for turn in mine) / len(mine) if mine else 0.0,
        sum(t.by_full * c for (_, _, t), c in zip(rows, counts, strict=True)) / sum(counts),
    )
