"""What a long pass over the blocks has done, saved from time to time, so that a killed one goes on.

Two kinds are kept: parts that are finished, and the activations as the next block receives them in
the pass that is under way. Saving takes a small share of the time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sprue.errors import InputError
from sprue.models import Stream, Writer
from sprue.plan.waiting import Waiting

OVERHEAD = 0.05  # share of the time that saving may take
INTERVAL = 60.0  # seconds of work that may be lost where steps are too small to save each


@dataclass(frozen=True)
class Live:
    """Where a pass over the blocks was stopped.

    Attributes:
        step: the number that it was saved under.
        told: what was told of it, JSON-able.
        small: tensors that fit in memory.
        waiting: its activations.
    """

    step: int
    told: Mapping[str, Any]
    small: Mapping[str, Tensor]
    waiting: Waiting


class Keeping:
    """The saved state of one command.

    Args:
        writer: holds shards and state.
        key: of the command and all it reads; a state under another key is not taken up.
        required: whether a state of another key is refused, not replaced.

    Attributes:
        resumed: whether an earlier run saved anything.

    Raises:
        InputError: a state of another command was saved, and it is not to be replaced.
    """

    def __init__(self, writer: Writer, key: str, required: bool = False) -> None:
        self._writer = writer
        if required:
            _check_same(writer, key)
        self._state: dict[str, Any] = writer.resume(key) or {}
        self._saved, self._took = time.monotonic(), 0.0
        self._pending: dict[str, Mapping[str, Tensor]] = {}
        self._waiting = Waiting(writer, self._state.get("live", {}).get("arrays"))
        self.resumed = bool(self._state)

    def measured(self) -> Any:
        """What `note` was given; None: nothing was saved."""
        return self._state.get("measured")

    def note(self, measured: Any) -> None:
        """Something that took long is measured; JSON-able."""
        self._forget()
        self._state = {"measured": measured}
        self._save()

    def finished(self, name: str) -> dict[str, Tensor] | None:
        """What `finish` was given under a name; None: nothing was saved."""
        return self._writer.kept(name) if name in self._state.get("finished", []) else None

    def finish(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """A part of the survey is measured, and no pass is under way; saved unless that takes long.

        Args:
            name: of the part.
            tensors: what was measured, in memory until it is saved.
        """
        self._pending[name] = tensors
        self._over()
        if self._due():
            self._save()

    def live(self, stage: str) -> Live | None:
        """Where an earlier run was in a pass of that name; None: not in it."""
        found = self._state.get("live", {})
        if found.get("stage") != stage:
            return None
        small = self._writer.kept(found["small"]) if found["small"] else {}
        return Live(int(found["step"]), found["told"], small, self._waiting)

    def keep(
        self,
        stage: str,
        step: int,
        told: Callable[[], Mapping[str, Any]],
        stream: Stream,
        arrays: Mapping[str, Tensor],
        small: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Save where a pass is, in the place of what was under way before, unless that takes long.

        Args:
            stage: name of the pass.
            step: a number that differs from that of the last time.
            told: makes what is told of it, JSON-able.
            stream: that the activations belong to.
            arrays: activations [windows, context, hidden].
            small: more tensors.
        """
        if not self._due():
            return
        since, name = time.monotonic(), f"{stage}{step:05d}"
        self._waiting.put(stream, name, arrays)
        self._writer.drop([before] if (before := self._state.get("live", {}).get("small")) else [])
        if small:
            self._writer.keep(name, small)
        self._state["live"] = {
            "stage": stage,
            "step": step,
            "told": told(),
            "arrays": self._waiting.names,
            "small": name if small else None,
        }
        self._save(since)

    def leave(self) -> None:
        """End here, without a result: what was measured is saved for the next run."""
        self._save()
        self._writer.leave()

    def _forget(self) -> None:
        """What was measured so far does not count any longer."""
        self._pending = {}
        self._writer.drop(self._state.get("finished", []))
        self._over()

    def _over(self) -> None:
        """The pass that was under way has ended."""
        small = self._state.pop("live", {}).get("small")
        self._writer.drop([small] if small else [])
        self._waiting.drop()

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= self._took / OVERHEAD

    def _save(self, since: float | None = None) -> None:
        since = time.monotonic() if since is None else since
        for name, tensors in self._pending.items():
            self._writer.keep(name, tensors)
            self._state.setdefault("finished", []).append(name)
        self._pending = {}
        self._writer.save(self._state)
        self._saved = time.monotonic()
        self._took = self._saved - since


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
