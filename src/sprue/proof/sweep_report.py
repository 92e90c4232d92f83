"""What a sweep found: the same figures for a program, a terminal and a browser."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sprue.proof import sweep_page
from sprue.proof.form import asked, percent
from sprue.proof.intervals import CONFIDENCE
from sprue.proof.machine import Machine
from sprue.proof.point import Curve, Point


@dataclass(frozen=True)
class Pick:
    """The point that a recipe was written for.

    Attributes:
        task: for which.
        point: of the largest ratio that keeps what was asked for, over all patterns; where none
            does, the one of which most is kept for certain.
        passed: whether it keeps what was asked for.
    """

    task: str
    point: Point
    passed: bool

    @classmethod
    def of(cls, task: str, curves: Sequence[Curve], keep: float) -> Pick:
        """Pick among the curves of a task."""
        mine = [curve for curve in curves if curve.task == task]
        enough = [point for curve in mine if (point := curve.keeps(keep)) is not None]
        if enough:
            return cls(task, max(enough, key=lambda point: point.zeros), True)
        every = [point for curve in mine for point in curve.points]
        return cls(task, max(every, key=lambda point: point.quality.kept_at_least), False)


@dataclass(frozen=True)
class SweepReport:
    """What `sweep` found.

    Attributes:
        model: as it was given.
        folder: of the sweep.
        settings: what decides the points.
        tasks: task -> its text.
        curves: for each task and pattern.
        keep: the share of quality that the marks stand for.
        seed: of everything random.
        pick: the recipe that was asked for, or None.
        texts: task -> the file to calibrate on and the one to measure with.
        machine: what it ran on.
    """

    model: str
    folder: str
    settings: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    curves: Sequence[Curve]
    keep: float
    seed: int
    pick: Pick | None
    texts: Mapping[str, Sequence[str]]
    machine: Machine

    @property
    def passed(self) -> bool:
        """Whether the task that was picked keeps what was asked for; True where none was."""
        return self.pick is None or self.pick.passed

    @property
    def statement(self) -> str:
        """What was picked, in one sentence."""
        if self.pick is None:
            return f"{len(self.curves)} curves, {self.count} points measured."
        point, task = self.pick.point, self.pick.task
        least = percent(point.quality.kept_at_least)
        where = f"{100 * point.zeros:.1f}% of zeros ({point.pattern})"
        if self.pick.passed:
            return (
                f"{task}: {where} keep at least {least} of the quality, with 95% confidence; "
                f"{asked(self.keep)} was asked for."
            )
        return (
            f"{task}: no ratio that was measured keeps {asked(self.keep)} with 95% confidence; the "
            f"best is {where}, which keeps at least {least}."
        )

    @property
    def count(self) -> int:
        """Number of points."""
        return sum(len(curve.points) for curve in self.curves)

    @property
    def command(self) -> str | None:
        """What carries the recipe out; None where none was picked."""
        if self.pick is None:
            return None
        given = {"--windows": self.settings["windows"], "--context": self.settings["context"]}
        options = [str(x) for pair in given.items() if pair[1] is not None for x in pair]
        recipe = f"{self.folder}/recipe.yaml"
        words = ["sprue", "compress", self.model, "--recipe", recipe, "--calibrate"]
        return shlex.join([*words, self.texts[self.pick.task][0], *options, "--out", "pruned"])

    def as_dict(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""
        return {
            "model": self.model,
            "statement": self.statement,
            "keep": self.keep,
            "confidence": CONFIDENCE,
            "seed": self.seed,
            "settings": dict(self.settings),
            "tasks": {name: dict(told) for name, told in self.tasks.items()},
            "curves": [curve.figures(self.keep, self.seed) for curve in self.curves],
            "pick": self._picked(),
            "machine": asdict(self.machine),
        }

    def table(self) -> str:
        """For a terminal: a line for each task and pattern."""
        heads = ("task", "pattern", "knee", f"keeps {asked(self.keep)}", "there kept (95%)")
        lines = [heads, *(self.row(curve) for curve in self.curves)]
        wide = [max(len(line[i]) for line in lines) for i in range(len(heads))]
        body = (
            "  ".join(f"{cell:<{wide[i]}}" for i, cell in enumerate(line)).rstrip()
            for line in lines
        )
        last = [self.statement] + ([f"next: {self.command}"] if self.command else [])
        return "\n".join([*body, "", *last])

    def row(self, curve: Curve) -> tuple[str, str, str, str, str]:
        """Task, pattern, knee, largest ratio that keeps enough, and what is kept there."""
        bend, enough = curve.knee(self.seed), curve.keeps(self.keep)
        knee = (
            "none"
            if bend is None
            else f"{100 * bend.ratio:.4g}% ({100 * bend.low:.4g} to {100 * bend.high:.4g})"
        )
        if enough is None:
            return curve.task, curve.family, knee, "none", ""
        kept = enough.quality.kept
        shown = f"{percent(kept.value)} ({percent(kept.low)} to {percent(kept.high)})"
        more = "" if curve.fails(self.keep) else " or more"
        return curve.task, curve.family, knee, f"{100 * enough.zeros:.4g}%{more}", shown

    def html(self) -> str:
        """One page with everything in it: it asks the network for nothing."""
        return sweep_page.render(self)

    def _picked(self) -> dict[str, Any] | None:
        if self.pick is None:
            return None
        point = self.pick.point
        return {
            "task": self.pick.task,
            "passed": self.pick.passed,
            "pattern": point.pattern,
            "ratio": point.ratio,
            "zeros": point.zeros,
            "kept": asdict(point.quality.kept),
            "kept_at_least": point.quality.kept_at_least,
            "command": self.command,
        }
