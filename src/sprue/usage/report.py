"""What a ranking found: the same figures for a program, a terminal and a browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sprue.usage import table, words
from sprue.usage.asked import Asked
from sprue.usage.needs import Need, Needs
from sprue.usage.reading import Log
from sprue.usage.store import UNITS
from sprue.usage.totals import COMPUTE, MEASURES, TOKENS, Ranked, Slot, Total, added

_NAMED = 5  # models or files that a note lists
_LEFT_OUT = 20  # files that are named outside of JSON


@dataclass(frozen=True)
class RankReport:
    """What `rank` found.

    Attributes:
        asked: what was asked for.
        by: the measure that ranks, one of `totals.MEASURES`.
        why: it is not the one that was asked for; None: it is.
        log: what was read, and what was not.
        whole, unknown: sums of all rows, and of those without a capability.
        capabilities: all known ones, the largest first.
        tenants: the largest, and
        tenant_count: how many there are.
        models: all, the largest first.
        span: first and last moment, seconds since 1970 in UTC; None: no row tells one.
        unit, slots: seconds of a slot of time, and the slots that hold anything.
        untimed: rows without a time.
        needs: new ones.
    """

    asked: Asked
    by: str
    why: str | None
    log: Log
    whole: Total
    unknown: Total
    capabilities: tuple[Ranked, ...]
    tenants: tuple[Ranked, ...]
    tenant_count: int
    models: tuple[Ranked, ...]
    span: tuple[float, float] | None
    unit: int
    slots: tuple[Slot, ...]
    untimed: Total
    needs: Needs

    @property
    def first(self) -> tuple[Ranked, ...]:
        """The capabilities that are told."""
        return self.capabilities[: self.asked.top]

    @property
    def rest(self) -> Total:
        """The capabilities that are not told, together."""
        return added(one.total for one in self.capabilities[self.asked.top :])

    @property
    def found(self) -> list[Need]:
        """The new needs that are told, the largest first."""
        found = sorted(self.needs.found, key=lambda need: -need.total.by(self.by))
        return found[: self.asked.top]

    @property
    def starts(self) -> range:
        """When the slots begin, from the first to the last without a gap."""
        if not self.slots:
            return range(0)
        return range(self.slots[0].start, self.slots[-1].start + 1, self.unit)

    def over_time(self, name: str | None) -> list[int]:
        """A capability in every slot of `starts`."""
        told = {
            slot.start: one.total.by(self.by)
            for slot in self.slots
            for one in slot.inside
            if one.name == name
        }
        return [told.get(start, 0) for start in self.starts]

    def of(self, total: Total) -> float:
        """The share of the whole that a total is, by the measure that ranks."""
        return total.share(self.whole, self.by)

    @property
    def statement(self) -> str:
        """The most important figures, in a few sentences."""
        if not self.capabilities:
            return f"No capability is known of {words.many(self.whole.requests, 'request')}."
        first = self.capabilities[0]
        share = words.percent(self.of(first.total))
        said = f"{words.named(first.name)} takes {share} of the {self.by}"
        if len(self.capabilities) > 3:
            three = self.of(added(one.total for one in self.capabilities[:3]))
            said += f", the first three of {len(self.capabilities)} take {words.percent(three)}"
        return f"{said}; {words.percent(self.of(self.unknown))} is of no known capability."

    @property
    def notes(self) -> list[str]:
        """What to know about the figures; nothing that was left out goes unnamed."""
        log, whole = self.log, self.whole
        absent = sorted(set(self.asked.flops) - {one.name for one in self.models})
        estimated = words.percent(whole.estimated / (whole.flops or 1))
        told = [
            (self.why, f"ranked by {self.by}: {self.why}{self._remedy()}"),
            (whole.estimated, f"{estimated} of the FLOPs are estimated from tokens, by --flops"),
            (absent, f"--flops names what no request went to: {', '.join(absent[:_NAMED])}"),
            (
                whole.without_flops and self.by == COMPUTE,
                f"{words.many(whole.without_flops, 'request')} without known FLOPs",
            ),
            (
                whole.impossible,
                f"{words.many(whole.impossible, 'request')} with numbers that cannot be (NaN, "
                "below 0, beyond all measure), which count as not known",
            ),
            (
                self.untimed.requests,
                f"{words.many(self.untimed.requests, 'request')} without a possible time",
            ),
            (log.lost, f"{words.many(log.lost, 'request')} lost before they could be written"),
            (
                log.unfinished,
                f"{words.many(len(log.unfinished), 'unfinished segment')} not read: "
                + ", ".join(map(words.plain, log.unfinished[:_NAMED])),
            ),
            (log.other, f"{words.many(log.other, 'file')} with other endings passed over"),
        ]
        return [note for holds, note in told if holds]

    @property
    def left_out(self) -> list[str]:
        """Files and lines that cannot be read."""
        named = [words.plain(str(one)) for one in self.log.skipped[:_LEFT_OUT]]
        more = len(self.log.skipped) - _LEFT_OUT
        return [*named, f"and {words.many(more, 'more file')}"] if more > 0 else named

    @property
    def looked(self) -> str:
        """How new needs were looked for, in sentences."""
        needs = self.needs
        if not needs.sample:
            return "No text is at hand of what is of no known capability."
        sampled = words.many(needs.sample, "text")
        sampled = (
            f"{sampled}, a sample of {needs.of:,}" if needs.sample < needs.of else f"all {sampled}"
        )
        said = (
            f"Looked for in {sampled}, in groups of {round(needs.least * needs.scale):,} requests "
            f"or more; {words.percent(needs.scattered / needs.sample)} belong to none."
        )
        if needs.sample < needs.of:
            said += " Requests are estimated from the sample."
        if needs.without:
            said += f" {words.many(needs.without, 'request')} of no known capability kept no text."
        return said

    def table(self) -> str:
        """For a terminal."""
        return table.render(self)

    def html(self) -> str:
        """One page with everything in it: it asks the network for nothing."""
        from sprue.usage import page

        return page.render(self)

    def as_dict(self) -> dict[str, Any]:
        """Every figure, ready for JSON; of the same log and arguments the same."""
        return {
            "statement": self.statement,
            "by": self.by,
            "why": self.why,
            "asked": {**asdict(self.asked), "tenants": list(self.asked.tenants)},
            "log": self._log(),
            "total": self._figures(self.whole),
            "unknown": self._figures(self.unknown),
            "capabilities": [self._named(one) for one in self.first],
            "rest": {"count": len(self.capabilities) - len(self.first), **self._figures(self.rest)},
            "tenants": [
                {**self._named(one), "capabilities": [self._named(c) for c in one.inside]}
                for one in self.tenants
            ],
            "tenant_count": self.tenant_count,
            "models": [self._named(one) for one in self.models[: self.asked.top]],
            "time": self._time(),
            "needs": self._needs(),
            "notes": self.notes,
        }

    def _remedy(self) -> str:
        """What a user can do about FLOPs that are not known."""
        lacking = [one.name for one in self.models if one.total.tokens_without_flops and one.name]
        if self.asked.by != COMPUTE or self.by != TOKENS or not lacking:
            return ""
        names = ", ".join(words.named(name) for name in lacking[:_NAMED])
        return f"; --flops MODEL=N tells how many a token takes ({names})"

    def _named(self, one: Ranked) -> dict[str, Any]:
        return {"name": one.name, **self._figures(one.total)}

    def _figures(self, total: Total) -> dict[str, Any]:
        found = asdict(total)
        found["cpu_seconds"] = found.pop("cpu_microseconds") / 1e6
        shares = {measure: total.share(self.whole, measure) for measure in MEASURES}
        return {"share": shares, "tokens": total.tokens, **found}

    def _log(self) -> dict[str, Any]:
        log, span = self.log, self.span
        return {
            "files": len(log.files),
            "lines": log.converted,
            "skipped": [asdict(one) for one in log.skipped],
            "unfinished": log.unfinished,
            "other_files": log.other,
            "lost": log.lost,
            "from": None if span is None else words.moment(span[0]),
            "to": None if span is None else words.moment(span[1]),
        }

    def _time(self) -> dict[str, Any]:
        names = [*(one.name for one in self.first), None]
        return {
            "unit": UNITS[self.unit],
            "starts": [words.moment(start) for start in self.starts],
            "capabilities": [{"name": name, self.by: self.over_time(name)} for name in names],
            "without_time": self.untimed.requests,
        }

    def _needs(self) -> dict[str, Any]:
        needs = self.needs
        return {
            "sample": needs.sample,
            "of": needs.of,
            "without_text": needs.without,
            "least_texts": needs.least,
            "scattered_texts": needs.scattered,
            "count": len(needs.found),
            "found": [
                {
                    "words": list(need.words),
                    "texts": need.texts,
                    "requests": self.requests_of(need),
                    "share_of_unknown": self.requests_of(need) / self.unknown.requests,
                    "share_of_all": self.requests_of(need) / self.whole.requests,
                    "tokens": round(need.total.tokens * needs.scale),
                    "flops": round(need.total.flops * needs.scale),
                    "examples": list(need.examples),
                }
                for need in self.found
            ],
        }

    def requests_of(self, need: Need) -> int:
        """Requests of the whole log, estimated where the sample is a part."""
        return round(need.texts * self.needs.scale)


def ordered(some: Sequence[Ranked], by: str) -> tuple[Ranked, ...]:
    """The largest first; those of one size by name."""
    key = {id(one): (-one.total.by(by), one.name is None, one.name or "") for one in some}
    return tuple(sorted(some, key=lambda one: key[id(one)]))
