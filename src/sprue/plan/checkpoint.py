"""Where a compression stands, saved from time to time, so that a killed one goes on.

Saved are what the survey has measured so far, the plan, what came of every matrix so far, and the
activations as the next block receives them, of whatever pass over the blocks is under way. Whoever
goes on gets the same bytes as a run that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sprue import __version__
from sprue.models import Source, Stream, Writer
from sprue.plan import recipe as recipes
from sprue.plan.goal import Goal
from sprue.plan.keeping import Keeping
from sprue.plan.ledger import Record
from sprue.plan.recipe import Recipe
from sprue.plan.survey import Survey
from sprue.weights.choice import Choice

_SURVEY = "survey"
_WALK = "walk"


class Checkpoint(Keeping):
    """The saved state of a compression; arguments and errors are those of `Keeping`.

    Attributes:
        block: the block that comes next; 0 where nothing was saved.
    """

    def __init__(self, writer: Writer, key: str, required: bool = False) -> None:
        super().__init__(writer, key, required)
        walked = self.live(_WALK)
        self.block = walked.step if walked else 0

    def line(self, blocks: int) -> str:
        """How far an earlier run got, for a terminal."""
        done = f"block {self.block} of {blocks}" if self.block else "the survey"
        return f"an earlier run of this command got as far as {done}: going on"

    def plan(self) -> tuple[Recipe, Survey | None] | None:
        """The plan and what it was made from (without the outlooks); None: not saved."""
        if "recipe" not in self._state:
            return None
        recipe = recipes.from_dict(self._state["recipe"])
        if not self._state["surveyed"]:
            return recipe, None
        found: dict[str, dict[str, Tensor]] = {"importance": {}, "moments": {}}
        for name, tensor in self._writer.kept(_SURVEY).items():
            kind, _, module = name.partition("/")
            found[kind][module] = tensor
        return recipe, Survey({}, found["importance"], found["moments"])

    def planned(self, recipe: Recipe, survey: Survey | None) -> None:
        """The plan is made; what was measured on the way to it is not kept any longer."""
        self._forget()
        self._state = {"recipe": recipe.as_dict(), "surveyed": survey is not None}
        if survey is not None:
            given = {f"importance/{n}": t for n, t in survey.importance.items()}
            given |= {f"moments/{n}": t for n, t in survey.moments.items()}
            self._writer.keep(_SURVEY, given)
        self._save()

    def records(self) -> dict[str, Record]:
        """What came of every matrix before `block`."""
        rows: Mapping[str, Any] = self._walk["records"]
        return {
            name: Record(**{**row, "choice": Choice(**row["choice"])}) for name, row in rows.items()
        }

    @property
    def carry(self) -> float:
        """Bits that the matrices before `block` left over."""
        return float(self._walk["carry"])

    @property
    def _walk(self) -> Mapping[str, Any]:
        walk: Mapping[str, Any] = self._state["live"]["told"]
        return walk

    def activations(self, stream: Stream, original: bool) -> tuple[Tensor, Tensor | None]:
        """What `block` receives, compressed and original."""
        keys = ("hidden", "original") if original else ("hidden",)
        hidden, *rest = self._waiting.get(stream, keys)
        return hidden, rest[0] if rest else None

    def walked(
        self,
        block: int,
        records: Mapping[str, Record],
        carry: float,
        stream: Stream,
        hidden: Tensor,
        original: Tensor | None,
    ) -> None:
        """All blocks before `block` are written; saves that, unless saving takes long."""

        def told() -> dict[str, Any]:
            rows = {n: {**asdict(r), "choice": asdict(r.choice)} for n, r in records.items()}
            return {"carry": carry, "records": rows}

        both = {"hidden": hidden} if original is None else {"hidden": hidden, "original": original}
        self.keep(_WALK, block, told, stream, both)


@contextmanager
def interruptible(writer: Writer) -> Iterator[None]:
    """Ctrl-C says whether the work so far is lost."""
    try:
        yield
    except KeyboardInterrupt:
        if not writer.resumable:
            raise
        raise KeyboardInterrupt("give the same command again, and it goes on from here") from None


def key_of(source: Source, goal: Goal, ids: Tensor, device: str) -> str:
    """A name for everything that decides the bytes of a result: what -> sha256, as JSON."""
    told = asdict(goal) | {"recipe": None if goal.recipe is None else goal.recipe.as_dict()}
    return key_for(source, told, ids, device)


def key_for(source: Source, told: Mapping[str, Any], ids: Tensor, device: str) -> str:
    """The same, for whatever was asked for (JSON-able)."""
    text = hashlib.sha256(ids.contiguous().numpy().tobytes()).hexdigest()
    parts = {
        "the versions of sprue and torch": [__version__, torch.__version__],
        "the model": [source.fingerprint(), source.raw],
        "the budget, recipe or seed": dict(told),
        "the calibration text": [text, list(ids.shape)],
        "the device": torch.device(device).type,
        # shared out otherwise, sums of products differ in their last digits
        "the number of threads": torch.get_num_threads(),
    }
    digests = {
        name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
        for name, part in parts.items()
    }
    return json.dumps(digests, sort_keys=True)
