"""The text of a capability: files of text, or what a log holds of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sprue import data
from sprue.data.text import Document
from sprue.errors import InputError
from sprue.extras import needed
from sprue.usage import jsonl
from sprue.usage.exchanges import JOINT
from sprue.usage.exchanges import read as exchanges

_WATCHED, _PROVEN = 0.1, 0.15  # shares of the text: to see how far it is, and to prove it with
_LINES = (".jsonl", ".ndjson", ".gz")
_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Corpus:
    """What a specialist is made of.

    Attributes:
        documents: of the capability.
        files: that they came from.
        skipped: lines of logs that could not be read.
    """

    documents: tuple[Document, ...]
    files: tuple[Path, ...]
    skipped: int = 0


@dataclass(frozen=True)
class Parts:
    """Documents to learn from, to see how far it is, and to prove it with."""

    learn: tuple[Document, ...]
    watch: tuple[Document, ...]
    prove: tuple[Document, ...]
    corpus: Corpus

    @classmethod
    def of(cls, found: Corpus, prove: Sequence[str | Path], seed: int) -> Parts:
        """Set apart by chance.

        Args:
            found: all of the capability's text.
            prove: files of more, to prove it with; none: a part of `found`.
            seed: of what goes where.
        """
        if prove:
            learn, watch = data.set_apart(found.documents, _WATCHED, seed)
            return cls(tuple(learn), tuple(watch), tuple(data.read(prove)), found)
        learn, rest = data.set_apart(found.documents, _WATCHED + _PROVEN, seed)
        watch, held = data.set_apart(rest, _PROVEN / (_WATCHED + _PROVEN), seed + 1)
        return cls(tuple(learn), tuple(watch), tuple(held), found)


def corpus(paths: Sequence[str | Path], capability: str) -> Corpus:
    """All text of a capability in some files; of a log the requests that it says are of it.

    A request that is of one need is a document with its answer; of several, none is: their parts
    are of different capabilities.

    Args:
        paths: text (.txt, .jsonl or .parquet with "text"), logs of OpenAI-style lines, or segments
            of the usage log (files, or folders of them).
        capability: whose requests are taken from a log.

    Raises:
        InputError: a file that cannot be read, or nothing of the capability in it.
    """
    if not paths:
        raise InputError(
            "no text given: name files or a log with text of the capability (--data FILE)"
        )
    documents: list[Document] = []
    files: list[Path] = []
    skipped = 0
    for path in map(Path, paths):
        found, mine, bad = _of(path, capability)
        if not mine:
            raise InputError(
                f"{path} holds no text of {capability!r}: the requests of a log are taken that it "
                "names this capability for ('sprue rank' shows which it names)"
            )
        documents, files, skipped = documents + mine, files + found, skipped + bad
    return Corpus(tuple(documents), tuple(files), skipped)


def _of(path: Path, capability: str) -> tuple[list[Path], list[Document], int]:
    if path.is_dir():
        segments = sorted(file for kind in _PARQUET for file in path.rglob(f"*{kind}"))
        return segments, [d for file in segments for d in _segment(file, capability)], 0
    if path.suffix.lower() in _PARQUET and _is_segment(path):
        return [path], _segment(path, capability), 0
    if path.suffix.lower() in _LINES and _is_log(path):
        bad: list[int] = []
        found = [
            Document(JOINT.join((*one.asked, *one.answered)), str(path))
            for one in exchanges(path, lambda number, why: bad.append(number))
            if one.capability == capability and len(one.asked) == 1
        ]
        return [path], found, len(bad)
    return [path], data.read([path]), 0


def _is_log(path: Path) -> bool:
    """Whether the first lines are requests, and not texts under "text"."""
    if not path.is_file():
        return False
    for _, line in jsonl.lines(path, lambda number, why: None):
        try:
            found = jsonl.loaded(line)
        except jsonl.ForeignError:
            return False
        return not isinstance(found.get("text"), str)
    return False


def _is_segment(path: Path) -> bool:
    parquet = needed("pyarrow.parquet", "parquet", "reading parquet")
    try:
        return {"text", "capability", "model"} <= set(parquet.read_schema(path).names)
    except (OSError, ValueError):  # what is damaged is told by whoever reads all of it
        return False


def _segment(path: Path, capability: str) -> list[Document]:
    parquet = needed("pyarrow.parquet", "usage", "reading the usage log")
    try:
        rows = parquet.read_table(path, columns=["capability", "text"]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no segment that can be read: {reason}") from error
    texts = [row["text"] for row in rows if row["capability"] == capability and row["text"]]
    return [Document(text, str(path)) for text in texts]
