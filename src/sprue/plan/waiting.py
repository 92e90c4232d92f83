"""Activations that are saved between two runs of a command, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from sprue.models import Stream, Writer
from sprue.plan.room import RESIDENT


class Waiting:
    """What the next block receives, kept by a writer.

    Args:
        writer: keeps it.
        names: under which an earlier run did.

    Attributes:
        names: under which it is kept now; JSON-able, to be saved with the rest of the state.
    """

    def __init__(self, writer: Writer, names: Iterable[str] = ()) -> None:
        self._writer, self.names = writer, list(names)

    def put(self, stream: Stream, step: int, arrays: Mapping[str, Tensor]) -> None:
        """Keep `arrays` [windows, context, hidden] in the place of those kept before.

        Args:
            stream: that they belong to.
            step: a number that differs from that of the last time, so that whoever is killed here
                leaves what was kept before it whole.
            arrays: all with as many windows.
        """
        old, self.names = self.names, []
        first = next(iter(arrays.values()))
        count = max(1, RESIDENT // max(1, first[0].nbytes))
        for start in range(0, len(first), count):
            self.names.append(f"waiting{step:05d}-{start:07d}")
            some = {key: array[start : start + count] for key, array in arrays.items()}
            self._writer.keep(self.names[-1], some)
            for array in arrays.values():
                stream.settle(array)
        self._writer.drop(old)

    def get(self, stream: Stream, keys: Sequence[str]) -> list[Tensor]:
        """The arrays that were kept, newly allocated."""
        found = [stream.allocate() for _ in keys]
        first = 0
        for name in self.names:
            saved = self._writer.kept(name)
            last = first + len(saved[keys[0]])
            for key, array in zip(keys, found, strict=True):
                array[first:last] = saved[key]
                stream.settle(array)
            first = last
        return found
