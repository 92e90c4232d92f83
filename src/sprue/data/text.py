"""Text in files, and windows of tokens cut from it.

Every file is a stream of its own: its documents are tokenized one by one, joined with the
tokenizer's end token, and cut into windows that follow one another without overlap. A sample is
drawn from these windows, the same number from every file, so that a large file does not drown a
small one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprue.errors import InputError
from sprue.extras import needed

SEPARATOR = "<|endoftext|>"
_NAMED = 8  # keys of a row that a message lists
_PIECE = 1 << 20  # characters tokenized at once: a tokenizer needs some hundred bytes for each


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        text: what it says; line ends are newlines.
        source: the file that it came from, as it was given.
    """

    text: str
    source: str


def of_one_source(documents: Iterable[Document]) -> list[Document]:
    """The same texts as of one source, so that short ones share windows."""
    return [Document(document.text, "the text") for document in documents]


def read(paths: Iterable[str | Path], characters: int | None = None) -> list[Document]:
    """The documents of text files, file after file.

    In a `.jsonl` file every line is an object, in a `.parquet` file every row a document; the text
    stands in "text". Any other file is plain UTF-8, its documents separated by `<|endoftext|>`.
    Blank documents are left out.

    Args:
        paths: the files.
        characters: at most so many from the start of each file; None takes all.

    Raises:
        InputError: no file given, a file that is missing, empty, not UTF-8, damaged or given
            twice, no "text" in it, or a parquet file without the extra that reads it.
    """
    files = [Path(path) for path in paths]
    _check(files)
    found: list[Document] = []
    for file in files:
        texts = [text for text in _texts(file, characters) if text.strip()]
        if not texts:
            raise InputError(f"{file} is empty: give a file with text in it")
        found += [Document(text, str(file)) for text in texts]
    return found


def fingerprint(paths: Iterable[str | Path]) -> str:
    """sha256, in hexadecimal, over the bytes of the files in the order given.

    Raises:
        InputError: no file given, or a file that is missing or given twice.
    """
    files = [Path(path) for path in paths]
    _check(files)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def windows(
    tokenizer: Any,
    documents: Iterable[Document],
    context: int,
    count: int | None = None,
    seed: int | None = None,
) -> Tensor:
    """Windows of tokens, [n, context] int64.

    A tokenizer that puts a begin token before a text by itself gets it at the head of every window
    (its models expect it there); the window then holds context - 1 tokens of text.

    Args:
        tokenizer: of `transformers`.
        documents: from `read`; those of one file must follow one another.
        context: tokens in a window.
        count: at most so many windows, spread evenly over the files; None takes all.
        seed: of the sample: from each file the first of `default_rng(seed).permutation(n)` of its n
            windows, without replacement. None takes the first windows of each file.

    Raises:
        InputError: a file that has fewer tokens than one window, or a context or count below 1.
    """
    if context < 2 or (count is not None and count < 1):
        raise InputError(
            f"expected a context of 2 tokens or more and 1 window or more, got a context of "
            f"{context} and {count} windows"
        )
    begin = _begin(tokenizer)
    limit = None if count is None or seed is not None else count * context
    pools = [
        _cut(_stream(tokenizer, texts, limit), context, begin, source)
        for source, texts in _by_source(documents)
    ]
    if not pools:
        raise InputError("no documents given: there is nothing to cut windows from")
    shares = _shares([len(pool) for pool in pools], count)
    picked = [_pick(pool, n, seed) for pool, n in zip(pools, shares, strict=True)]
    return torch.from_numpy(np.concatenate(picked))


def _check(files: Sequence[Path]) -> None:
    if not files:
        raise InputError("no data file given: expected .txt, .jsonl or .parquet files")
    for file in files:
        if file.is_dir():
            raise InputError(f"{file} is a folder: name the text files in it")
        if not file.is_file():
            raise InputError(f"no such data file: {file}")
    twice = sorted({str(file) for file in files if files.count(file) > 1})
    if twice:
        raise InputError(f"{twice[0]} is given twice: name every data file once")


def _texts(file: Path, characters: int | None) -> Iterator[str]:
    kind = file.suffix.lower()
    if kind in {".jsonl", ".ndjson"}:
        return _head(_json_lines(file), characters)
    if kind in {".parquet", ".pq"}:
        return _head(_parquet(file), characters)
    return iter(_decoded(file)[:characters].split(SEPARATOR))


def _head(texts: Iterable[str], characters: int | None) -> Iterator[str]:
    """`texts` until they have so many characters; the last one is cut."""
    for text in texts:
        if characters is None:
            yield text
            continue
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def _decoded(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is not UTF-8 (byte {error.start}): convert it, for example with "
            f"`iconv -f LATIN1 -t UTF-8`; compressed files must be unpacked first"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _json_lines(file: Path) -> Iterator[str]:
    for number, line in enumerate(_decoded(file).split("\n"), start=1):
        if line.strip():
            yield _json_text(file, number, line)


def _json_text(file: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}, line {number}: not JSON ({error})") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        keys = sorted(row)[:_NAMED] if isinstance(row, dict) else []
        found = f"the keys {keys}" if isinstance(row, dict) else type(row).__name__
        raise InputError(
            f'{file}, line {number}: expected an object with a string under "text", found {found}'
        )
    _check_whole(text, file, number)
    return text


def _check_whole(text: str, file: Path, number: int) -> None:
    r"""Refuse what JSON can escape and no tokenizer takes: one half of a pair, as in "\ud83d"."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{file}, line {number}: the text holds half a character (a lone surrogate, at "
            f"character {error.start}): leave the line out, or repair it"
        ) from error


def _parquet(file: Path) -> Iterator[str]:
    what = f"{file}: reading parquet"
    pyarrow, parquet = (needed(n, "parquet", what) for n in ("pyarrow", "pyarrow.parquet"))
    try:
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
        if "text" not in names or not _is_text(table.schema_arrow.field("text").type):
            raise InputError(f'{file}: expected a string column "text", found {names}')
        for batch in table.iter_batches(columns=["text"]):
            yield from (text for text in batch.column(0).to_pylist() if text is not None)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file} is not a readable parquet file: {reason}") from error


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _by_source(documents: Iterable[Document]) -> Iterator[tuple[str, list[str]]]:
    for source, group in groupby(documents, key=lambda document: document.source):
        yield source, [document.text for document in group]


def _begin(tokenizer: Any) -> int | None:
    """The begin token, if the tokenizer adds one by itself."""
    alone = tokenizer("").input_ids
    begin: int | None = tokenizer.bos_token_id
    return begin if alone and alone[0] == begin else None


def _stream(tokenizer: Any, texts: Sequence[str], limit: int | None) -> NDArray[np.int64]:
    """The tokens of one file's documents, the end token between them; `limit` are enough."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    parts: list[list[int]] = []
    total = 0
    for text in texts:
        ids = encode(tokenizer, text)
        parts += [end, ids] if parts else [ids]
        total += len(ids)
        if limit is not None and total >= limit:
            break
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def encode(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text of any length, without special tokens of the tokenizer's own."""
    ids: list[int] = []
    for piece in _pieces(text):
        ids += tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
    return ids


def _pieces(text: str) -> Iterator[str]:
    """`text` cut at line ends into pieces of bounded length."""
    start = 0
    while len(text) - start > _PIECE:
        stop = text.rfind("\n", start, start + _PIECE) + 1
        stop = stop if stop > start else start + _PIECE
        yield text[start:stop]
        start = stop
    yield text[start:]


def _cut(
    tokens: NDArray[np.int64], context: int, begin: int | None, source: str
) -> NDArray[np.int64]:
    body = context if begin is None else context - 1
    n = len(tokens) // body
    if n == 0:
        raise InputError(
            f"{source} has {len(tokens)} tokens, fewer than one window of {context}: give more "
            "text or a smaller context"
        )
    cut = tokens[: n * body].reshape(n, body)
    return cut if begin is None else np.pad(cut, ((0, 0), (1, 0)), constant_values=begin)


def _shares(sizes: Sequence[int], count: int | None) -> list[int]:
    """How many windows each file gives: `count` in even shares, as far as the files have them."""
    if count is None:
        return list(sizes)
    shares = [0] * len(sizes)
    smallest_first = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for place, i in enumerate(smallest_first):
        shares[i] = min(sizes[i], count // (len(sizes) - place))
        count -= shares[i]
    return shares


def _pick(pool: NDArray[np.int64], count: int, seed: int | None) -> NDArray[np.int64]:
    if seed is None or count == len(pool):
        return pool[:count]
    return pool[np.random.default_rng(seed).permutation(len(pool))[:count]]
