"""Which files a log is, and which of them can be read: nothing is left out without being named."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sprue.errors import InputError, ResourceError
from sprue.extras import needed
from sprue.usage import jsonl, record
from sprue.usage.record import Record
from sprue.usage.segments import PARTIAL, SUFFIX

_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_MAGIC = b"PAR1"
_GLOB = "*?["
_BATCH = 65_536  # rows that are decoded at once where a segment is checked
_NAMED = 5  # reasons that an error lists


@dataclass(frozen=True)
class Skipped:
    """What was not read.

    Attributes:
        file: its name.
        lines: how many of it; None: the whole file.
        reason: why, with the number of the first such line.
    """

    file: str
    lines: int | None
    reason: str

    def __str__(self) -> str:
        what = "" if self.lines is None else f"{_lines(self.lines)} left out, "
        return f"{self.file}: {what}{self.reason}"


@dataclass
class Log:
    """What can be read of a log.

    Attributes:
        files: names of the files that were read.
        segments: Parquet files with the columns of `record.schema`, converted ones among them.
        asked, answered: Parquet files with halves of requests, to be joined by `request`.
        skipped: what cannot be read.
        unfinished: segments that a process left when it ended, or is writing now.
        other: files with other endings in the folders.
        lost: records that segments say were lost before them.
        converted: lines that were read from JSONL.
    """

    files: list[str] = field(default_factory=list)
    segments: list[Path] = field(default_factory=list)
    asked: list[Path] = field(default_factory=list)
    answered: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    other: int = 0
    lost: int = 0
    converted: int = 0


def read(
    logs: Sequence[str | Path],
    scratch: Path,
    threads: int = 1,
    progress: Callable[[str], object] = lambda words: None,
) -> Log:
    """Find the files of a log, check every segment, and convert JSONL to segments.

    Args:
        logs: files, folders (with all below them) and patterns such as "logs/*.jsonl". In a folder
            the ending tells what a file is; of a file that is named its content does.
        scratch: folder for what is converted.
        threads: to check segments with.
        progress: called with a few words before every step.

    Raises:
        InputError: no such file, or nothing in them that can be read.
    """
    log = Log()
    paths = list(_found(logs, log))
    segments = [path for path in paths if _is_parquet(path)]
    known = set(segments)
    progress(f"checking {_files(len(segments))}")
    with ThreadPoolExecutor(threads) as pool:
        for path, told in zip(segments, pool.map(_checked, segments), strict=True):
            if isinstance(told, str):
                log.skipped.append(Skipped(str(path), None, told))
            else:
                log.files.append(str(path))
                log.segments.append(path)
                log.lost += told
    for number, path in enumerate(path for path in paths if path not in known):
        progress(f"reading {path.name}")
        _convert(path, scratch / f"{number:06}", log)
    if not log.files:
        raise InputError(_nothing(logs, log))
    return log


def _found(logs: Sequence[str | Path], log: Log) -> Iterator[Path]:
    """Every file once, in the order given, by name within a folder."""
    if not logs:
        raise InputError("no log given: name segments, JSONL files, or folders of them")
    seen = set()
    for name in logs:
        for path in _named(str(name)):
            for file in _below(path, log) if path.is_dir() else [path]:
                if (real := file.resolve()) in seen:
                    continue
                seen.add(real)
                if file.name.endswith(PARTIAL):
                    log.unfinished.append(str(file))
                else:
                    yield file


def _named(name: str) -> list[Path]:
    """What an argument names."""
    if Path(name).exists():
        return [Path(name)]
    found = sorted(glob.glob(name, recursive=True)) if set(name) & set(_GLOB) else []  # noqa: PTH207
    if not found:
        raise InputError(f"no such file or folder: {name}; expected segments or JSONL of a log")
    return [Path(one) for one in found]


def _below(folder: Path, log: Log) -> Iterator[Path]:
    """The logs in a folder; what else is there is counted."""

    def refused(error: OSError) -> None:
        log.skipped.append(Skipped(str(error.filename), None, f"{error.strerror}"))

    for where, folders, names in os.walk(folder, onerror=refused):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith((PARTIAL, SUFFIX, *_LINES)):
                yield Path(where, name)
            else:
                log.other += 1


def _is_parquet(path: Path) -> bool:
    """By its content where it says so, else by its name."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) == _MAGIC:
                return True
    except OSError:
        pass
    return path.name.lower().endswith(SUFFIX)


def _checked(path: Path) -> int | str:
    """The records that a segment says were lost before it; words where it cannot be read.

    Everything is decoded once with its checksums: a flipped bit in a page of compressed numbers
    would else be read as other numbers, without an error.
    """
    parquet, pa = (
        needed(name, "usage", "the usage log") for name in ("pyarrow.parquet", "pyarrow")
    )
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            wrong = _foreign(file.schema_arrow)
            if wrong is not None:
                return wrong
            names = [f.name for f in record.schema()]
            rows = 0
            for batch in file.iter_batches(_BATCH, columns=names, use_threads=False):
                batch.validate(full=True)  # also that texts are UTF-8
                rows += batch.num_rows
            if rows != file.metadata.num_rows:  # a page that says it is another kind is passed over
                return f"damaged: {rows} rows of {file.metadata.num_rows}"
            return _lost(file.schema_arrow.metadata)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        known = isinstance(error, OSError) and error.strerror  # Arrow's own have no number
        return known if known else f"damaged: {_first_line(error)}"


def _foreign(schema: Any) -> str | None:
    """What is wrong with the columns of a Parquet file; None: nothing."""
    version = (schema.metadata or {}).get(record.VERSION_KEY)
    if version is None:
        return "no segment of a usage log: its metadata names no version"
    if version != str(record.VERSION).encode():
        told = version.decode("utf-8", "replace")[:20]
        return f"a segment of version {told}, where this sprue reads {record.VERSION}"
    for column in record.schema():
        place = schema.get_field_index(column.name)
        if place < 0:
            return f"no column {column.name!r}"
        if schema.field(place).type != column.type:
            return f"column {column.name!r}: expected {column.type}, got {schema.field(place).type}"
    return None


def _lost(metadata: Any) -> int:
    told = metadata.get(record.LOST_KEY, b"0")
    return int(told) if told.isdigit() else 0


def _convert(path: Path, prefix: Path, log: Log) -> None:
    """Write the lines of a file as segments beside `prefix`."""
    bad, writers = _Bad(), _Writers(prefix)
    try:
        count = jsonl.convert(path, writers.put, bad.add)
    except OSError as error:
        log.skipped.append(Skipped(str(path), None, str(error.strerror or error)))
        return
    finally:
        files = writers.close()
    kinds = {jsonl.WHOLE: log.segments, jsonl.ASKED: log.asked, jsonl.ANSWERED: log.answered}
    for kind, file in files.items():
        kinds[kind].append(file)
    log.converted += count
    if count:
        log.files.append(str(path))
    if bad.count or not count:
        lines = bad.count if count else None
        log.skipped.append(Skipped(str(path), lines, bad.first or "empty: no line in it"))


@dataclass
class _Bad:
    """Lines that cannot be read: how many, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, number: int, reason: str) -> None:
        self.count += 1
        self.first = self.first or f"line {number}: {reason}"


class _Writers:
    """A segment for each kind of line that comes."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._open: dict[str, tuple[Path, Any]] = {}

    def put(self, kind: str, some: list[Record]) -> None:
        parquet = needed("pyarrow.parquet", "usage", "the usage log")
        try:
            if kind not in self._open:
                file = self._prefix.with_name(f"{self._prefix.name}-{kind}{SUFFIX}")
                self._open[kind] = (
                    file,
                    parquet.ParquetWriter(file, record.schema(), compression="lz4"),
                )
            self._open[kind][1].write_table(record.table(some)[0])
        except OSError as error:
            raise _no_room(self._prefix.parent, error) from error

    def close(self) -> dict[str, Path]:
        try:
            for _, writer in self._open.values():
                writer.close()
        except OSError as error:
            raise _no_room(self._prefix.parent, error) from error
        return {kind: file for kind, (file, _) in self._open.items()}


def _no_room(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"{error.strerror or error} while lines were put away in {folder}: name a folder with more "
        "room in TMPDIR"
    )


def _nothing(logs: Sequence[str | Path], log: Log) -> str:
    """Why there is nothing to rank."""
    if not log.skipped:
        found = f"{_files(log.other)} with other endings" if log.other else "nothing"
        names = ", ".join(map(str, logs[:_NAMED]))
        return f"no log in {names}: expected .parquet segments or .jsonl, found {found}"
    told = "; ".join(str(one) for one in log.skipped[:_NAMED])
    more = len(log.skipped) - _NAMED
    return f"nothing in the log can be read: {told}{f'; and {more} more' if more > 0 else ''}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _lines(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"
