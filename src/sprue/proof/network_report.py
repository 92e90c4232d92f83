"""The report of a network and its original: what was kept, and what it costs to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sprue.proof.energy import MODELLED, Energy
from sprue.proof.form import asked, percent, size
from sprue.proof.intervals import Estimate
from sprue.proof.latency import Turns
from sprue.proof.machine import Machine
from sprue.proof.quality import Verdict
from sprue.proof.resident import Resident
from sprue.proof.scores import Kept


@dataclass(frozen=True)
class NetworkReport:
    """What was measured; pairs are (original, result).

    Attributes:
        original, result: as they were given.
        task: one of `models.nets`.
        engine: that ran both, with its version.
        threads: of the engine.
        shape: of the arguments of one example, by name.
        data: the files.
        examples: so many.
        fingerprint: sha256 over the data.
        scores: what was kept, by every metric; the first is what the verdict is about.
        verdict: whether the margin was met.
        broken: budgets that are not met, name -> (measured, allowed).
        nbytes: of the files that the engine loads.
        parameters: of the networks.
        single: latency of one example.
        many: of a batch; None where the network takes but one example.
        many_examples: in that batch.
        memory: of both, each in a fresh process; None where it was not measured.
        energy: of an example.
        trials: what was tried on the way; empty where a result was only verified.
        artifact: sprue.json of the result; None where it has none.
        machine: what it ran on.
        seed: of resampling.
    """

    original: str
    result: str
    task: str
    engine: str
    threads: int
    shape: Mapping[str, Sequence[int]]
    data: tuple[str, ...]
    examples: int
    fingerprint: str
    scores: tuple[Kept, ...]
    verdict: Verdict
    broken: Mapping[str, tuple[float, float]]
    nbytes: tuple[int, int]
    parameters: tuple[int, int] | None
    single: Turns
    many: Turns | None
    many_examples: int
    memory: tuple[Resident, Resident] | None
    energy: tuple[Energy, Energy]
    trials: tuple[Mapping[str, Any], ...]
    artifact: Mapping[str, Any] | None
    machine: Machine
    seed: int

    @property
    def passed(self) -> bool:
        """Whether the quality was proven, and no budget is broken."""
        return self.verdict.passed and not self.broken

    @property
    def size_ratio(self) -> float:
        """Bytes, result over original."""
        return self.nbytes[1] / self.nbytes[0]

    @property
    def memory_ratio(self) -> float | None:
        """Of what the networks add to their processes."""
        if self.memory is None:
            return None
        return self.memory[1].own_bytes / self.memory[0].own_bytes

    @property
    def energy_ratio(self) -> float:
        """At the middle of both ranges."""
        before, after = (sum(e.joules_per_token) for e in self.energy)
        return after / before

    @property
    def statement(self) -> str:
        """The verdict in a sentence or two."""
        return " ".join([_quality(self.verdict, self.scores[0]), *_budgets(self.broken)])

    def as_dict(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""
        return {
            "original": self.original,
            "result": self.result,
            "task": self.task,
            "engine": self.engine,
            "threads": self.threads,
            "shape": {name: list(dims) for name, dims in self.shape.items()},
            "data": {
                "files": list(self.data),
                "examples": self.examples,
                "sha256": self.fingerprint,
            },
            "verdict": asdict(self.verdict) | {"metric": self.scores[0].name},
            "passed": self.passed,
            "statement": self.statement,
            "broken": {name: list(pair) for name, pair in self.broken.items()},
            "scores": {kept.name: _kept(kept) for kept in self.scores},
            "bytes": {**_pair(self.nbytes), "ratio": self.size_ratio},
            "parameters": None if self.parameters is None else _pair(self.parameters),
            "latency": _turns(self.single),
            "throughput": None
            if self.many is None
            else {"examples": self.many_examples, **_turns(self.many)},
            "memory": None
            if self.memory is None
            else {
                **_pair([asdict(m) | {"own_bytes": m.own_bytes} for m in self.memory]),
                "ratio": self.memory_ratio,
            },
            "energy": {
                **_pair([asdict(e) for e in self.energy]),
                "ratio": self.energy_ratio,
                "unit": "joules_per_token holds joules per example",
            },
            "trials": [dict(trial) for trial in self.trials],
            "seed": self.seed,
            "machine": asdict(self.machine),
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Figure, original, result, and how the two compare."""
        found = [
            (k.name, f"{k.original:.4f}", f"{k.result:.4f}", f"kept {_estimate(k.kept)}")
            for k in self.scores
        ]
        before, after = self.nbytes
        found.append(("size", size(before), size(after), percent_of(self.size_ratio)))
        if self.parameters is not None:
            whole, left = self.parameters
            found.append(("parameters", f"{whole:,}", f"{left:,}", percent_of(left / whole)))
        found.append(("latency, 1 example", *_times(self.single)))
        if self.many is not None:
            found.append((f"time of {self.many_examples} examples", *_times(self.many)))
        if self.memory is not None:
            a, b = (size(m.own_bytes) for m in self.memory)
            found.append(("memory of its own", a, b, percent_of(self.memory_ratio or 0.0)))
        label = self.energy[1].source
        name = f"energy, {label}" if label == MODELLED else f"energy ({label})"
        a, b = (_joules(e) for e in self.energy)
        found.append((name, a, b, percent_of(self.energy_ratio)))
        return found

    def table(self) -> str:
        """For a terminal."""
        rows = [("", "original", "result", ""), *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip()
            for a, b, c, d in rows
        ]
        about = (
            f"{self.examples:,} examples of {', '.join(self.data)}; {self.engine}, "
            f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        )
        return "\n".join([self.statement, "", *lines, "", about])

    def html(self) -> str:
        """One page with everything in it: it asks the network for nothing."""
        from sprue.proof.network_page import render

        page: str = render(self)
        return page


def judged(kept: Kept, keep: float | None) -> Verdict:
    """Whether enough was kept."""
    passed = keep is None or kept.at_least >= keep
    return Verdict(keep, kept.at_least, kept.kept.confidence, passed)


def percent_of(ratio: float) -> str:
    """A ratio as a share of the original's."""
    return f"{100 * ratio:.1f}%"


def _quality(verdict: Verdict, kept: Kept) -> str:
    least, sure = percent(verdict.kept_at_least), f"{100 * verdict.confidence:.4g}% confidence"
    if verdict.keep is None:
        return f"At least {least} of {kept.name} was kept, with {sure}."
    wanted = asked(verdict.keep)
    if verdict.passed:
        return f"Kept: at least {least} of {kept.name}, with {sure}; {wanted} was asked for."
    measured = percent(kept.kept.value)
    if kept.kept.high < verdict.keep:
        return f"Not kept: {measured} of {kept.name} is left; {wanted} was asked for."
    return (
        f"Not proven: {measured} of {kept.name} was measured, and these examples only prove "
        f"{least} with {sure}; {wanted} was asked for."
    )


def _budgets(broken: Mapping[str, tuple[float, float]]) -> list[str]:
    return [
        f"Not met: {name} is {percent_of(measured)} of the original's; {asked(allowed)} was asked "
        "for."
        for name, (measured, allowed) in broken.items()
    ]


def _estimate(estimate: Estimate) -> str:
    low, high = (f"{100 * end:.2f}" for end in (estimate.low, estimate.high))
    return f"{100 * estimate.value:.2f}% ({low} to {high})"


def _times(turns: Turns) -> tuple[str, str, str]:
    a, b = (f"{1e3 * pace.seconds:.3f} ms" for pace in (turns.original, turns.result))
    return a, b, _estimate(turns.ratio)


def _joules(energy: Energy) -> str:
    low, high = (1e3 * j for j in energy.joules_per_token)
    return f"{low:.3g} mJ" if low == high else f"{low:.3g} to {high:.3g} mJ"


def _kept(kept: Kept) -> dict[str, Any]:
    return {
        "original": kept.original,
        "result": kept.result,
        "kept": asdict(kept.kept),
        "at_least": kept.at_least,
    }


def _turns(turns: Turns) -> dict[str, Any]:
    return asdict(turns)


def _pair(both: Sequence[Any]) -> dict[str, Any]:
    return {"original": both[0], "result": both[1]}
