"""A distillation from its start, or from where it was cut short, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sprue.models import Writer
from sprue.plan.checkpoint import INTERVAL
from sprue.plan.distill import Distillation

_STATE = "distillation"
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
        last = time.monotonic()
        while self.work.done < 1:
            done = self.work.done
            self.work.advance()
            self.progress(self.work.done - done)
            if self.work.done >= len(self.looks) / LOOKS:
                self._look()
            if time.monotonic() - last >= INTERVAL and self.work.done < 1:
                self._save()
                last = time.monotonic()
        return self.looks

    def _look(self) -> None:
        self.looks.append(Look(self.work.step, self.work.seconds, *self.measure()))

    def _save(self) -> None:
        """Under a new name, so that whoever is killed here leaves the state before it whole."""
        told, tensors = self.work.state()
        old, self._name = self._name, f"{_STATE}{self.work.step:08d}"
        self.writer.keep(self._name, tensors)
        self.writer.drop([old])
        looks = [asdict(look) for look in self.looks]
        self.writer.save(
            {**self.before, _STATE: {"name": self._name, "work": told, "looks": looks}}
        )
