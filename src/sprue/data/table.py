"""Rows with named columns, from CSV, TSV, JSONL, JSON, and lines of tokens with tags.

Every row knows where it stands, so that a message can say so.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprue.errors import InputError

_NAMED = 8  # columns that a message lists
_SHOWN = 40  # characters of a line that a message shows
_CONLL = (".tsv", ".txt", ".conll", ".bio", ".iob", ".iob2")
_TITLES = ("token", "word", "tokens", "words")  # of the first column of tokens with tags


@dataclass(frozen=True)
class Table:
    """Rows of a file.

    Attributes:
        file: that they came from.
        rows: for each where it stands, "line 3", and its values by the names of their columns.
        fingerprint: sha256, in hexadecimal, over the file and the name of the list in it.
    """

    file: Path
    rows: tuple[tuple[str, Mapping[str, Any]], ...]
    fingerprint: str

    def has(self, *names: str) -> bool:
        """Whether there are all of these columns."""
        return all(name in self.rows[0][1] for name in names)

    def named(self, names: Sequence[str], what: str) -> str:
        """The first of these columns that there is.

        Raises:
            InputError: none of them; `what` says what they would have held.
        """
        for name in names:
            if self.has(name):
                return name
        have = ", ".join(map(repr, list(self.rows[0][1])[:_NAMED]))
        raise InputError(
            f"{self.file} has no column for {what}: expected one of {', '.join(names[:_NAMED])}; "
            f"it has {have}"
        )

    def column(self, name: str) -> list[Any]:
        """Its values.

        Raises:
            InputError: a row without one.
        """
        for i, (_, row) in enumerate(self.rows):
            if row.get(name) is None:
                raise self.error(i, f"no {name!r}")
        return [row[name] for _, row in self.rows]

    def texts(self, name: str) -> tuple[str, ...]:
        """Its values, which must be texts.

        Raises:
            InputError: a row without one.
        """
        found = self.column(name)
        for i, value in enumerate(found):
            if not isinstance(value, str):
                raise self.error(i, f"expected a text as {name!r}, got {value!r}")
        return tuple(found)

    def error(self, row: int, message: str) -> InputError:
        """About one row, to be raised."""
        return InputError(f"{self.file}, {self.rows[row][0]}: {message}")


def read_table(
    path: str | Path,
    is_header: Callable[[list[str]], bool],
    places: Callable[[int], list[str] | None],
    tagged: bool = False,
) -> Table:
    """The rows of a file.

    Args:
        path: .csv, .tsv, .txt, .jsonl, .json, or .conll and its like; the ending tells the format.
            `FILE.json#NAME` is one of several lists in an object. Tabs are never quoted.
        is_header: whether these values of the first line are names of columns.
        places: names of so many columns that have none; None where they cannot be told.
        tagged: lines hold a token first and its tag last, blank ones stand between sentences, which
            become rows with "tokens" and "tags".

    Raises:
        InputError: a file that is missing, empty, not UTF-8 or damaged, or lines of unequal length.
    """
    file, part = _split(path)
    data = _bytes(file)
    found = list(_parsed(file, _decoded(file, data), part, tagged))
    if not found:
        raise InputError(f"{file} holds no rows: give a file with labelled text in it")
    digest = hashlib.sha256(data)
    digest.update(part.encode())
    return Table(file, tuple(_mappings(file, found, is_header, places)), digest.hexdigest())


_Rows = Iterator[tuple[str, Any]]


def _split(path: str | Path) -> tuple[Path, str]:
    """The file, and the name of the list in it that was asked for."""
    whole, (name, _, part) = Path(path), str(path).rpartition("#")
    return (Path(name), part) if name and not whole.exists() else (whole, "")


def _bytes(file: Path) -> bytes:
    if not file.is_file():
        raise InputError(f"no such file: {file}; expected labelled text in CSV, TSV, JSONL or JSON")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    if not data.strip():
        raise InputError(f"{file} is empty: give a file with labelled text in it")
    return data


def _decoded(file: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line}: not UTF-8 (byte {data[error.start]:#04x}): convert it first"
        ) from error


def _parsed(file: Path, text: str, part: str, tagged: bool) -> _Rows:
    ending = file.suffix.lower()
    if part and ending != ".json":
        raise InputError(f"{file}#{part}: only a .json file holds several lists by name")
    if ending in (".jsonl", ".ndjson"):
        return _json_lines(file, text)
    if ending == ".json":
        return _json(file, text, part)
    if ending in _CONLL and tagged:
        return _conll(file, text)
    if ending == ".csv" and not tagged:
        return _cells(file, csv.reader(io.StringIO(text, newline=""), strict=True))
    if ending in (".tsv", ".txt") and not tagged:
        lines = io.StringIO(text, newline="")
        return _cells(file, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    known = ".tsv, .txt, .conll" if tagged else ".csv, .tsv, .txt"
    raise InputError(f"{file}: expected a name that ends in {known}, .jsonl or .json")


def _cells(file: Path, reader: Any) -> _Rows:
    width = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise InputError(
                    f"{file}, line {reader.line_num}: {len(cells)} columns, where those before it "
                    f"have {width}"
                )
            yield f"line {reader.line_num}", cells
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}") from error


def _json_lines(file: Path, text: str) -> _Rows:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", _loaded(file, line, number)


def _loaded(file: Path, text: str, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{file}, line {line + error.lineno - 1}: no JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{file}, line {line}: JSON that is nested too deeply") from error


def _json(file: Path, text: str, part: str) -> _Rows:
    found = _loaded(file, text)
    if isinstance(found, dict):
        found = _part(file, found, part)
    elif part:
        raise InputError(f"{file} is one list: leave '#{part}' away")
    if not isinstance(found, list):
        raise InputError(f"{file}: expected a list of rows, got a {type(found).__name__}")
    if found and isinstance(found[0], dict) and "paragraphs" in found[0]:
        yield from _squad(file, found)
        return
    for number, row in enumerate(found, 1):
        yield f"row {number}", row


def _part(file: Path, found: dict[str, Any], part: str) -> Any:
    lists = {name: rows for name, rows in found.items() if isinstance(rows, list)}
    if not part and len(lists) == 1:
        return next(iter(lists.values()))
    if part not in lists:
        names = ", ".join(lists) or "none"
        asked = f"no list {part!r}" if part else "several lists" if lists else "no list"
        raise InputError(f"{file} has {asked}: name one as {file.name}#NAME; there are {names}")
    return lists[part]


def _squad(file: Path, articles: Sequence[Any]) -> _Rows:
    """Of articles, paragraphs and questions (Rajpurkar et al. 2016)."""
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    where = f"question {question.get('id', question['question'])!r}"
                    yield where, {"context": paragraph["context"], **question}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: expected paragraphs with context and qas, as SQuAD has them; missing {error}"
        ) from error


def _conll(file: Path, text: str) -> _Rows:
    """Sentences of lines that hold a token first and its tag last."""
    start, width = 1, 0
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        cells = [c.strip() for c in (line.split("\t") if "\t" in line else line.split())]
        if not line.strip() or cells[0] == "-DOCSTART-":
            if words:
                yield f"line {start}", {"tokens": words, "tags": tags}
            words, tags, start = [], [], number + 1
            continue
        width = width or len(cells)
        if len(cells) != width or width < 2 or not cells[0] or not cells[-1]:
            raise InputError(
                f"{file}, line {number}: expected a token, a tab and its tag, in as many columns "
                f"as the lines before it; got {line[:_SHOWN]!r}"
            )
        if number > 1 or cells[0].casefold() not in _TITLES or not cells[-1].islower():
            words.append(cells[0])
            tags.append(cells[-1])


def _mappings(
    file: Path,
    found: Sequence[tuple[str, Any]],
    is_header: Callable[[list[str]], bool],
    places: Callable[[int], list[str] | None],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows by the names of their columns; lists take those of a header, or of their places."""
    where, first = found[0]
    if isinstance(first, dict):
        for where, row in found:
            _check(file, where, row, dict)
            yield where, {_folded(name): value for name, value in row.items()}
        return
    _check(file, where, first, list)
    names = [_folded(cell) for cell in first]
    titled = is_header(names)
    columns = names if titled else places(len(first))
    if columns is None or (titled and len(found) == 1):
        wrong = "a header and no rows" if titled else f"columns without known names: {first!r:.80}"
        raise InputError(f"{file}, {where}: {wrong}; expected rows under names of columns")
    for where, row in found[titled:]:
        _check(file, where, row, list)
        if len(row) != len(columns):
            raise InputError(f"{file}, {where}: {len(row)} values; expected {len(columns)}")
        yield where, dict(zip(columns, row, strict=True))


def _folded(name: Any) -> str:
    return str(name).strip().casefold()


def _check(file: Path, where: str, row: Any, kind: type) -> None:
    if not isinstance(row, kind):
        what = "an object" if kind is dict else "a list of values or an object"
        raise InputError(f"{file}, {where}: expected {what}, got {str(row)[:_SHOWN]!r}")
