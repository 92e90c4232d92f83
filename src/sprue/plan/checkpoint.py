"""Where a compression stands, saved from time to time, so that a killed one goes on.

Saved are the plan, what the survey measured, what came of every matrix so far, and both streams of
activations as the next block receives them. Whoever goes on gets the same bytes as a run that was
never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sprue import __version__
from sprue.errors import InputError
from sprue.models import Source, Stream, Writer
from sprue.plan import recipe as recipes
from sprue.plan.goal import Goal
from sprue.plan.ledger import Record
from sprue.plan.recipe import Recipe
from sprue.plan.room import RESIDENT
from sprue.plan.survey import Survey
from sprue.weights.choice import Choice

OVERHEAD = 0.05  # share of the time that saving may take
INTERVAL = 60.0  # seconds of work that may be lost where steps are too small to save each
_SURVEY = "survey"


class Checkpoint:
    """The saved state of one command.

    Args:
        writer: holds shards and state.
        key: of the command and all it reads; a state under another key is not taken up.
        required: whether a state of another key is refused, not replaced.

    Attributes:
        block: the block that comes next; 0 where nothing was saved.
        resumed: whether an earlier run saved its plan, at least.

    Raises:
        InputError: a state of another command was saved, and it is not to be replaced.
    """

    def __init__(self, writer: Writer, key: str, required: bool = False) -> None:
        self._writer = writer
        if required:
            _check_same(writer, key)
        self._state: dict[str, Any] = writer.resume(key) or {}
        self._saved, self._took = time.monotonic(), 0.0
        self._files: list[str] = list(self._state.get("activations", []))
        self.block = int(self._state.get("next", 0))
        self.resumed = "recipe" in self._state or "measured" in self._state

    def line(self, blocks: int) -> str:
        """How far an earlier run got, for a terminal."""
        done = f"block {self.block} of {blocks}" if self.block else "the survey"
        return f"an earlier run of this command got as far as {done}: going on"

    def plan(self) -> tuple[Recipe, Survey | None] | None:
        """The plan and what it was made from (without the outlooks); None: not saved."""
        if not self.resumed:
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
        """The plan is made."""
        self._state = {"recipe": recipe.as_dict(), "surveyed": survey is not None}
        if survey is not None:
            given = {f"importance/{n}": t for n, t in survey.importance.items()}
            given |= {f"moments/{n}": t for n, t in survey.moments.items()}
            self._writer.keep(_SURVEY, given)
        self._save(time.monotonic())

    def measured(self) -> Any:
        """What `note` was given; None: nothing was saved."""
        return self._state.get("measured")

    def note(self, measured: Any) -> None:
        """Something that took long is measured; JSON-able."""
        self._state = {"measured": measured}
        self._save(time.monotonic())

    def records(self) -> dict[str, Record]:
        """What came of every matrix before `block`."""
        rows: Mapping[str, Any] = self._state.get("records", {})
        return {
            name: Record(**{**row, "choice": Choice(**row["choice"])}) for name, row in rows.items()
        }

    @property
    def carry(self) -> float:
        """Bits that the matrices before `block` left over."""
        return float(self._state.get("carry", 0.0))

    def activations(self, stream: Stream, original: bool) -> tuple[Tensor, Tensor | None]:
        """What `block` receives, compressed and original."""
        both = stream.allocate(), stream.allocate() if original else None
        first = 0
        for name in self._files:
            saved = self._writer.kept(name)
            last = first + len(saved["hidden"])
            for key, target in zip(("hidden", "original"), both, strict=True):
                if target is not None:
                    target[first:last] = saved[key]
                    stream.settle(target)
            first = last
        return both

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
        if not self._due():
            return
        since = time.monotonic()
        old, self._files = self._files, []
        for number, part in enumerate(_parts(hidden)):
            name = f"block{block:05d}-{number:05d}"
            both = {"hidden": hidden[part]}
            if original is not None:
                both["original"] = original[part]
            self._writer.keep(name, both)
            self._files.append(name)
            for tensor in (hidden, original):
                if tensor is not None:
                    stream.settle(tensor)
        self._writer.drop(old)
        self._state |= {
            "next": block,
            "carry": carry,
            "records": {n: {**asdict(r), "choice": asdict(r.choice)} for n, r in records.items()},
            "activations": self._files,
        }
        self._save(since)

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= self._took / OVERHEAD

    def _save(self, since: float) -> None:
        self._writer.save(self._state)
        self._saved = time.monotonic()
        self._took = self._saved - since


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
    }
    digests = {
        name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
        for name, part in parts.items()
    }
    return json.dumps(digests, sort_keys=True)


def _check_same(writer: Writer, key: str) -> None:
    saved = writer.saved_key
    if saved is None or saved == key:  # killed before anything was saved, it begins again
        return
    old, new = json.loads(saved), json.loads(key)
    other = [name for name in new if old.get(name) != new[name]]
    raise InputError(
        f"the unfinished work for {writer.out} is of another command: {' and '.join(other)} "
        "differ; give the same again, or leave --resume out to begin anew"
    )


def _parts(hidden: Tensor) -> list[slice]:
    """Runs of windows small enough to be in memory at once."""
    count = max(1, RESIDENT // max(1, hidden[0].nbytes))
    return [slice(a, min(a + count, len(hidden))) for a in range(0, len(hidden), count)]
