"""A distillation from its start, or from where it was cut short, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sprue.models import Writer
from sprue.plan.distill import Distillation
from sprue.plan.keeping import INTERVAL

_STATE = "distillation"
HELD = 32  # windows that are not learned from: they tell how far the student is
LOOKS = 12  # times that the student is measured, after the first


@dataclass(frozen=True)
class Look:
    """How far a student was.

    Attributes:
        step: steps taken.
        seconds: spent on them.
        kept: perplexity of the original over that of the student, on windows held back.
        kl_nats: divergence there, nats per token.
    """

    step: int
    seconds: float
    kept: float
    kl_nats: float


@dataclass
class Lesson:
    """A distillation that is measured from time to time, and saved.

    Attributes:
        work: the distillation.
        measure: (kept, KL in nats) of the student as it is.
        writer: where the state is saved.
        before: what else the writer's state has to hold.
        progress: called with the share of the schedule that a step took.
        looks: what was measured so far.
    """

    work: Distillation[Any]
    measure: Callable[[], tuple[float, float]]
    writer: Writer
    before: Mapping[str, Any]
    progress: Callable[[float], object] = lambda share: None
    looks: list[Look] = field(default_factory=list)
    _name: str = ""
    _looking: float = 0.0
    _saved: float = 0.0

    def run(self, state: Mapping[str, Any] | None) -> list[Look]:
        """To the end; what was measured on the way.

        Args:
            state: what the writer gave back, with what an earlier run saved of this in it.
        """
        saved = (state or {}).get(_STATE)
        if saved is None:
            self._look()
        else:
            self.looks = [Look(**row) for row in saved["looks"]]
            self._name = saved["name"]
            self.work.resume(saved["work"], self.writer.kept(self._name))
        self.progress(self.work.done)
        self._saved = time.monotonic()
        while self.work.done < 1:
            done = self.work.done
            self.work.advance()
            if self._due() and self.work.done < 1:
                self._look()
            if time.monotonic() - self._saved >= INTERVAL and self.work.done < 1:
                self._save()
            self.progress(self.work.done - done)
        self._look()
        return self.looks

    def _due(self) -> bool:
        """Whether to look again; by the clock, looks may take a tenth of it."""
        if self.work.schedule.seconds is not None and 10 * self._looking > self.work.seconds:
            return False
        return self.work.done >= len(self.looks) / LOOKS

    def _look(self) -> None:
        begin = time.monotonic()
        found = self.measure()
        self._spent(begin)
        self._looking += time.monotonic() - begin
        self.looks.append(Look(self.work.step, self.work.seconds, *found))

    def _spent(self, begin: float) -> None:
        """Time that a schedule by the clock counts, though no step was taken in it."""
        if self.looks:
            self.work.seconds += time.monotonic() - begin

    def _save(self) -> None:
        """Under a new name, so that whoever is killed here leaves the state before it whole."""
        begin = time.monotonic()
        told, tensors = self.work.state()
        old, self._name = self._name, f"{_STATE}{self.work.step:08d}"
        self.writer.keep(self._name, tensors)
        self.writer.drop([old])
        looks = [asdict(look) for look in self.looks]
        saved = {"name": self._name, "work": told, "looks": looks}
        self.writer.save({**self.before, _STATE: saved})
        self._spent(begin)
        self._saved = time.monotonic()
