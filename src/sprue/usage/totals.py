"""What was asked for, in figures: sums over requests, and the order that they give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

COMPUTE, TOKENS, REQUESTS = "compute", "tokens", "requests"
MEASURES = (COMPUTE, TOKENS, REQUESTS)
GAP = 0.01  # of the tokens that may lack FLOPs, or of the requests that may lack tokens


@dataclass(frozen=True)
class Total:
    """Sums over requests; whole numbers, so that the order of adding changes nothing.

    Attributes:
        requests: how many.
        tokens_in, tokens_out: where they are known.
        flops: measured, or estimated from tokens, where either is known.
        estimated: of these FLOPs, those that were estimated.
        cpu_microseconds: where they are known.
        escalated: steps that the full model took over.
        steps: of all answers.
        without_tokens: requests of which no tokens are known.
        without_flops: requests of which no FLOPs are known, and
        tokens_without_flops: their tokens.
        impossible: requests with a number that cannot be, which was set aside.
    """

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    flops: int = 0
    estimated: int = 0
    cpu_microseconds: int = 0
    escalated: int = 0
    steps: int = 0
    without_tokens: int = 0
    without_flops: int = 0
    tokens_without_flops: int = 0
    impossible: int = 0

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.tokens_in + self.tokens_out

    @property
    def cpu_seconds(self) -> float:
        """Of the processors that answered."""
        return self.cpu_microseconds / 1e6

    def by(self, measure: str) -> int:
        """One of MEASURES."""
        return {COMPUTE: self.flops, TOKENS: self.tokens, REQUESTS: self.requests}[measure]

    def share(self, whole: Total, measure: str) -> float:
        """Of a whole; 0 where that is nothing."""
        return self.by(measure) / (whole.by(measure) or 1)


COLUMNS = tuple(f.name for f in fields(Total))


def added(some: Iterable[Total]) -> Total:
    """The sum of several."""
    found = list(some)
    return Total(*(sum(getattr(total, name) for total in found) for name in COLUMNS))


@dataclass(frozen=True)
class Ranked:
    """A capability, a tenant or a model.

    Attributes:
        name: None: no capability is known; "": nobody named it.
        total: over its requests.
        inside: of a tenant, its capabilities.
    """

    name: str | None
    total: Total
    inside: tuple[Ranked, ...] = ()


@dataclass(frozen=True)
class Slot:
    """A span of time: when it began (seconds since 1970, UTC), and its capabilities."""

    start: int
    inside: tuple[Ranked, ...]


def settle(asked: str, whole: Total) -> tuple[str, str | None]:
    """The measure that can rank, and why it is not the one that was asked for.

    FLOPs rank where no more than GAP of the tokens lack them, tokens where no more than GAP of the
    requests do.
    """
    measure, why = asked, []
    if measure == COMPUTE and (gap := _without_flops(whole)):
        measure = TOKENS
        why.append(f"FLOPs are not known of {gap}")
    if measure == TOKENS and (gap := _without_tokens(whole)):
        measure = REQUESTS
        why.append(f"tokens are not known of {gap}")
    return measure, ", and ".join(why) or None


def _without_flops(whole: Total) -> str:
    """What lacks them, in words; empty where it is little."""
    if whole.tokens:
        gap, what = whole.tokens_without_flops / whole.tokens, "tokens"
    else:
        gap, what = whole.without_flops / (whole.requests or 1), "requests"
    return "" if gap <= GAP and whole.flops else _of(gap or 1.0, what)


def _without_tokens(whole: Total) -> str:
    gap = whole.without_tokens / (whole.requests or 1)
    return "" if gap <= GAP and whole.tokens else _of(gap or 1.0, "requests")


def _of(share: float, what: str) -> str:
    return f"any of the {what}" if share == 1 else f"{100 * share:.3g}% of the {what}"
