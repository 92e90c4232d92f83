"""What is to be done to a model: opened, checked and forecast before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from sprue import models
from sprue.errors import BudgetError
from sprue.models import Source, Stream
from sprue.plan import calibration, context, design, rehearsal
from sprue.plan.calibration import Calibration
from sprue.plan.forecast import Forecast, forecast
from sprue.plan.goal import Goal
from sprue.plan.keeping import Keeping
from sprue.plan.recipe import Recipe
from sprue.plan.room import RESIDENT, batch_of
from sprue.plan.search import Curve
from sprue.plan.survey import Survey, survey
from sprue.plan.surveyed import Saved

_POINTS = 16  # of the predicted curve
_SURVEYED = 32  # windows that the survey runs

Advance = Callable[[], None]


@dataclass(frozen=True)
class Job:
    """A goal and the model that it is for.

    Attributes:
        source: the model.
        goal: what is asked for.
        parts: the model's matrices.
        limit: bytes of all tensors, at most; None: not stated.
        device: where blocks run.
    """

    source: Source
    goal: Goal
    parts: design.Matrices
    limit: int | None
    device: str

    @classmethod
    def opened(cls, model: str | Path, goal: Goal, device: str) -> Job:
        """The job, where what is asked for is not known to be impossible.

        Raises:
            InputError: a model or device that cannot be used.
            BudgetError: a budget that cannot be met.
        """
        models.check_device(device)
        source = models.open(model)
        parts, limit = design.matrices(source), goal.limit(source.nbytes)
        goal.check(parts, limit)
        return cls(source, goal, parts, limit, device)

    def texts(
        self,
        paths: Sequence[str | Path],
        windows: int,
        context: int | None,
        held: float = 0.0,
    ) -> Calibration:
        """Calibration windows; `held` is the share of the text that is left out of them."""
        return calibration.read(self.source, paths, windows, context, self.goal.seed, held)

    def forecast(self, ids: Tensor) -> Forecast:
        """What it will take."""
        result = self.limit or self.source.nbytes
        goal = self.goal
        return forecast(
            *(self.source, self.parts, ids.shape, result),
            *(goal.measures, goal.trellis, goal.refines, goal.searches(self.parts)),
        )

    @property
    def measuring(self) -> int:
        """Steps of progress before the first block."""
        passes = (3 if self.goal.measures else 0) + (1 if self.goal.refines else 0)
        return self.source.blocks * passes

    @property
    def packing(self) -> int:
        """Steps of progress from the first block to the last."""
        return self.source.blocks * len(self.source.family.groups(self.source.config)) + 1

    @property
    def steps(self) -> int:
        """Steps of progress from the survey to the last block."""
        return self.measuring + self.packing

    def rehearse(self, ids: Tensor) -> None:
        """Do the heaviest block's work once, quickly, so that what fails there fails now.

        Raises:
            InputError: weights or activations that cannot be worked with.
        """
        rehearsal.rehearse(self._stream(ids[:1]), self.goal.seed, self.goal.trellis)

    def plan(
        self, ids: Tensor, advance: Advance, keeping: Keeping | None = None
    ) -> tuple[Recipe, Survey | None]:
        """The recipe, and what was measured for it.

        Args:
            ids: calibration windows, int64 [windows, context].
            advance: called at every step.
            keeping: what an earlier run of the same has measured; None: nothing is kept.
        """
        found = self.survey(ids, advance, keeping)
        return self.goal.plan(self.parts, self.limit, found), found

    def survey(
        self, ids: Tensor, advance: Advance, keeping: Keeping | None = None
    ) -> Survey | None:
        """What is measured on evenly spaced windows, so that every text takes part; None: nothing.

        Where zeros are shared out, predictions are put right by what is measured in the compressed
        context.
        """
        goal = self.goal
        if not goal.measures:
            return None
        demands = goal.demands if goal.preset == design.BEST else None
        stream = self._stream(surveyed(ids))
        found = survey(
            stream,
            seed=goal.seed,
            demands=demands,
            progress=lambda _: advance(),
            saved=Saved(keeping),
        )
        if not goal.refines:
            return found
        first = goal.plan(self.parts, self.limit, found)
        some = calibration.spaced(ids, context.windows_for(len(self.parts.linears)))
        short = self._stream(some[:, : context.TOKENS])
        measured = context.Context(short, found, first, advance, keeping).sensitivities()
        return replace(found, sensitivity=measured)

    def curve(self, found: Survey) -> Curve:
        """What the solver predicts at sizes from the least to the most that it knows.

        Raises:
            BudgetError: no size holds what is asked for beside it.
        """
        ends = design.range_of(self.parts, found, self.goal.demands)
        sizes = np.unique(np.geomspace(*ends, _POINTS).round().astype(int)).tolist()
        losses: list[float] = []
        for size in reversed(sizes):
            try:
                plan = self.goal.plan(self.parts, size, found)
            except BudgetError:
                if not losses:
                    raise
                break  # zeros and FLOPs do not go with fewer bytes
            losses.insert(0, design.damage(found, plan))
        return Curve(sizes[-len(losses) :], losses)

    def _stream(self, ids: Tensor) -> Stream:
        batch = batch_of(ids.shape[1])
        return Stream(self.source, ids, batch, self.device, resident=RESIDENT)


def surveyed(ids: Tensor) -> Tensor:
    """The windows that a survey runs: evenly spaced, so that every text takes part."""
    return calibration.spaced(ids, _SURVEYED)
