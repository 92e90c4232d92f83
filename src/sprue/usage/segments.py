"""The usage log as it is written: Parquet segments behind a bounded queue.

A disk that is full, slow or gone must not be felt by whoever is served: records then wait in
memory, up to a bound, and beyond it they are dropped and counted.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from sprue.errors import InputError
from sprue.extras import needed
from sprue.usage import record
from sprue.usage.record import Record
from sprue.usage.redact import redact

SUFFIX, PARTIAL = ".parquet", ".partial"

_MARGIN = 512  # characters beyond those that are kept, so that no find is cut in two
_RETRY = 0.5, 30.0  # seconds until a failed segment is tried again, at first and at most


class Segments:
    """A folder that records are appended to, from any number of threads.

    One background thread writes segments, each under a name of its own that ends in `.partial` and
    renamed once it is whole and on the disk. A segment that fails is tried again until it is
    written or closed. What was lost up to then stands in the metadata of the next segment.

    Args:
        folder: to write to; made where it is not there.
        rows: of a segment at most.
        seconds: that a record waits at most until its segment is written.
        waiting: records in memory at most, those that are being written included.
        characters: of text in memory at most, in all of them together.
        longest: characters of a text that are kept.
        keep_text: False keeps no text at all.
        clean: what is done to every text before it is written; it runs in the background thread.

    Raises:
        InputError: the folder's name is that of a file, a bound is below 1, or pyarrow is not
            installed. A disk that cannot be written raises nothing, now or later.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        rows: int = 20_000,
        seconds: float = 60.0,
        waiting: int = 40_000,
        characters: int = 32_000_000,
        longest: int = 8_000,
        keep_text: bool = True,
        clean: Callable[[str], str] = redact,
    ) -> None:
        self.folder = Path(folder)
        self._parquet = needed("pyarrow.parquet", "usage", "the usage log")
        _check(self.folder, rows=rows, seconds=seconds, waiting=waiting, longest=longest)
        self._rows, self._seconds = min(rows, waiting), seconds
        self._most, self._room, self._longest = waiting, characters, longest
        self._keep_text, self._clean = keep_text, clean
        self._begin()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            again = weakref.WeakMethod(self._begin)
            os.register_at_fork(after_in_child=lambda: (begin := again()) and begin())

    def _begin(self) -> None:
        """Start empty: also in the child of a fork, where no thread is left, nor any lock free."""
        self._run_name, self._number = os.urandom(4).hex(), 0
        self._changed = threading.Condition()
        self._queue: list[Record] = []
        self._held = 0  # characters of text in the queue
        self._since = 0.0  # when the first of the queue came, or may be tried again
        self._failed = 0  # times in a row
        self._dropped = self._told = self._written = 0
        self._closing = False
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="sprue-usage", daemon=True)
        self._thread.start()

    def put(self, one: Record) -> bool:
        """Take a record; False: it is dropped. This waits for no disk and raises nothing of it."""
        one = self._cut(one)
        size = _size(one)
        with self._changed:
            full = len(self._queue) >= self._most or self._held + size > self._room
            if full or self._closing:
                self._dropped += 1
                return False
            self._queue.append(one)
            self._held += size
            if len(self._queue) == 1 and not self._failed:
                self._since = time.monotonic()
            if len(self._queue) == 1 or self._enough():
                self._changed.notify()
        return True

    def close(self, timeout: float = 10.0) -> None:
        """Write what waits, and stop; records that come later are dropped.

        Args:
            timeout: seconds to wait for the disk. What it has not taken by then counts as lost.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        atexit.unregister(self.close)

    @property
    def lost(self) -> int:
        """Records that were dropped, and once closed also those that could not be written."""
        with self._changed:
            return self._dropped + (len(self._queue) if self._closing else 0)

    @property
    def written(self) -> int:
        """Records in segments that are whole."""
        with self._changed:
            return self._written

    @property
    def trouble(self) -> str | None:
        """Why the last segment could not be written; None: it was."""
        with self._changed:
            return self._trouble

    def __enter__(self) -> Segments:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _cut(self, one: Record) -> Record:
        """The record with no more text than is kept."""
        if one.text is None or (self._keep_text and _size(one) <= self._longest + _MARGIN):
            return one
        return replace(one, text=one.text[: self._longest + _MARGIN] if self._keep_text else None)

    def _enough(self) -> bool:
        return len(self._queue) >= self._rows or 2 * self._held >= self._room

    def _run(self) -> None:
        """Of the background thread: a segment after the other, until closed."""
        while (batch := self._next()) is not None:
            if not self._attempt(batch) and self._closing:
                return

    def _next(self) -> list[Record] | None:
        """Wait for records that are due; None: there will be no more."""
        with self._changed:
            while not self._closing:
                left = self._left()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            untold = self._dropped > self._told
            if not self._queue and (self._closing and not untold):
                return None
            return self._queue[: self._rows]

    def _left(self) -> float | None:
        """Seconds until a segment is due; None: nothing waits."""
        if not self._queue:
            return None
        if self._failed:
            first, most = _RETRY
            return (
                self._since
                + min(math.ldexp(first, min(self._failed - 1, 16)), most)
                - time.monotonic()
            )
        return 0.0 if self._enough() else self._since + self._seconds - time.monotonic()

    def _attempt(self, batch: list[Record]) -> bool:
        """Write records as a segment; False: they stay in the queue."""
        with self._changed:
            lost = self._dropped - self._told
        trouble, refused = None, 0
        try:
            refused = self._write(batch, lost)
        except OSError as error:
            trouble = f"{error.strerror or error}: {error.filename or self.folder}"
        except Exception as error:  # no record may end the log, whatever is in it
            trouble, refused = f"{type(error).__name__}: {error}", len(batch)
        stays = trouble is not None and refused == 0
        size = sum(_size(one) for one in batch)
        with self._changed:
            self._trouble, self._since = trouble, time.monotonic()
            self._failed = self._failed + 1 if stays else 0
            if not stays:
                del self._queue[: len(batch)]
                self._held -= size
                self._dropped += refused
                self._written += len(batch) - refused
                self._told += lost if trouble is None else 0
        return not stays

    def _write(self, batch: list[Record], lost: int) -> int:
        """A segment, whole or not at all; how many of its records no segment can hold."""
        table, refused = record.table([self._cleaned(one) for one in batch])
        told = {record.LOST_KEY: str(lost + refused).encode(), record.TEXT_KEY: self._text_policy()}
        table = table.replace_schema_metadata({**table.schema.metadata, **told})
        self.folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        file = self.folder / f"{stamp}-{self._run_name}-{self._number:06}{SUFFIX}"
        partial = file.with_name(file.name + PARTIAL)
        try:
            _save(self._parquet, table, partial)
            partial.replace(file)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        self._told += refused
        return refused

    def _cleaned(self, one: Record) -> Record:
        if not isinstance(one.text, str):
            return one
        return replace(one, text=self._clean(one.text)[: self._longest])

    def _text_policy(self) -> bytes:
        return b"redacted" if self._keep_text else b"none"


def _save(parquet: Any, table: Any, file: Path) -> None:
    """Write a table and wait until the disk has it; every page has a checksum."""
    with file.open("wb") as stream:
        parquet.write_table(table, stream, compression="zstd", write_page_checksum=True)
        stream.flush()
        os.fsync(stream.fileno())


def _size(one: Record) -> int:
    """Characters of text that a record holds in memory."""
    return len(one.text) if isinstance(one.text, str) else 0


def _check(folder: Path, **bounds: float) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder for the usage log")
    for name, value in bounds.items():
        if value <= 0:
            raise InputError(f"{name} of the usage log must be above 0, got {value:g}")
