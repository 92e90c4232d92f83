"""Activations that are saved between two runs of a command, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from sprue.models import Stream, Writer
from sprue.plan.room import RESIDENT


class Waiting:
    """What the next block receives, kept by a writer.

    Args:
        writer: keeps it.
        names: under which an earlier run did.

    Attributes:
        names: array -> the names of its parts now; JSON-able, to be saved with the rest of the
            state.
    """

    def __init__(self, writer: Writer, names: Mapping[str, Sequence[str]] | None = None) -> None:
        self._writer = writer
        self.names = {key: list(parts) for key, parts in (names or {}).items()}

    def put(self, stream: Stream, step: str, arrays: Mapping[str, Tensor]) -> None:
        """Keep `arrays` [windows, context, hidden] in the place of those kept before.

        Args:
            stream: that they belong to.
            step: a name that differs from that of the last time, so that whoever is killed here
                leaves what was kept before it whole.
            arrays: what waits.
        """
        new = {key: self._parts(stream, step, key, array) for key, array in arrays.items()}
        self.drop()
        self.names = new

    def drop(self) -> None:
        """Nothing waits any longer."""
        self._writer.drop(name for parts in self.names.values() for name in parts)
        self.names = {}

    def _parts(self, stream: Stream, step: str, key: str, array: Tensor) -> list[str]:
        names, count = [], max(1, RESIDENT // max(1, array[0].nbytes)) if len(array) else 1
        for start in range(0, len(array), count):
            names.append(f"{step}-{key}-{start:07d}")
            self._writer.keep(names[-1], {key: array[start : start + count]})
            stream.settle(array)
        return names

    def get(self, stream: Stream, keys: Sequence[str]) -> list[Tensor]:
        """The arrays that were kept, newly allocated; as many windows as the stream has."""
        found = [stream.allocate() for _ in keys]
        for key, out in zip(keys, found, strict=True):
            self.fill(stream, key, out)
        return found

    def fill(self, stream: Stream, key: str, out: Tensor) -> int:
        """An array that was kept becomes the beginning of `out`; returns its windows."""
        first = 0
        for name in self.names[key]:
            saved = self._writer.kept(name)[key]
            out[first : first + len(saved)] = saved
            stream.settle(out)
            first += len(saved)
        return first
