"""One text in two parts that share no document: one to calibrate on, one to measure with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from sprue.data.text import Document
from sprue.errors import InputError

_FEW = 8  # documents of a file from which some are drawn; fewer are cut


def halves(documents: Sequence[Document], seed: int) -> tuple[list[Document], list[Document]]:
    """About half of the characters each; no text stands on both sides, repeated ones included.

    Args:
        documents: of one file.
        seed: of the order in which they are dealt out; the parts keep that of the file.

    Raises:
        InputError: fewer than two different documents.
    """
    texts = list(dict.fromkeys(document.text for document in documents))
    if len(texts) < 2:
        source = documents[0].source if documents else "the file"
        raise InputError(
            f"{source} holds one document, and two parts take two: separate its documents with "
            "<|endoftext|>, or give two files as NAME=CALIBRATION,EVALUATION"
        )
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    first, sizes = {texts[order[0]]}, [len(texts[order[0]]), 0]
    for i in order[1:]:
        shorter = int(sizes[1] <= sizes[0])
        sizes[shorter] += len(texts[i])
        if not shorter:
            first.add(texts[i])
    return (
        [document for document in documents if document.text in first],
        [document for document in documents if document.text not in first],
    )


def set_apart(
    documents: Sequence[Document], share: float, seed: int
) -> tuple[list[Document], list[Document]]:
    """(the rest, about `share` of the characters of every file), no document in both.

    Whole documents are drawn with the seed; a file with few of them is cut near its end instead.

    Args:
        documents: from `read`; those of one file must follow one another.
        share: 0 to below 1.
        seed: of the draw.
    """
    if not share:
        return list(documents), []
    rest: list[Document] = []
    part: list[Document] = []
    for _, group in groupby(documents, key=lambda document: document.source):
        mine = list(group)
        a, b = _drawn(mine, share, seed) if len(mine) >= _FEW else _tail(mine, share)
        rest, part = rest + a, part + b
    return rest, part


def _drawn(
    documents: Sequence[Document], share: float, seed: int
) -> tuple[list[Document], list[Document]]:
    """Whole documents until they have the share; a text that is repeated stays on one side."""
    texts = list(dict.fromkeys(document.text for document in documents))
    sizes = np.array([len(text) for text in texts])
    order = np.random.default_rng(seed).permutation(len(texts))
    # the last one drawn is in where that is nearer to the share
    before = sizes[order].cumsum() - sizes[order] / 2
    chosen = {texts[i] for i in order[before < share * sizes.sum()].tolist()}
    return (
        [document for document in documents if document.text not in chosen],
        [document for document in documents if document.text in chosen],
    )


def _tail(documents: Sequence[Document], share: float) -> tuple[list[Document], list[Document]]:
    """The text cut at the line end nearest to where the share begins."""
    left = (1 - share) * sum(len(document.text) for document in documents)
    for i, document in enumerate(documents):
        if left < len(document.text):
            at = document.text.find("\n", int(left)) + 1 or int(left)
            parts = document.text[:at], document.text[at:]
            head, tail = (Document(text, document.source) for text in parts)
            return (
                [*documents[:i], *([head] if parts[0].strip() else [])],
                [*([tail] if parts[1].strip() else []), *documents[i + 1 :]],
            )
        left -= len(document.text)
    return list(documents), []


def refuse_shared(calibration: Iterable[Document], evaluation: Sequence[Document]) -> None:
    """Refuse two texts that have a document in common: quality must be measured on what is new.

    Raises:
        InputError: they have; says how many.
    """
    seen = {document.text.strip(): document.source for document in calibration}
    twice = [document for document in evaluation if document.text.strip() in seen]
    if twice:
        source = seen[twice[0].text.strip()]
        raise InputError(
            f"{len(twice)} of the {len(evaluation)} documents of {twice[0].source} stand in "
            f"{source} too (first: {twice[0].text.strip()[:40]!r}): take them out of one of the "
            "two, or give one file, which is split"
        )


def write(path: Path, documents: Iterable[Document]) -> None:
    """The documents as a `.jsonl` file that `read` takes, all of it or nothing."""
    partial = path.with_name(f"{path.name}.partial")
    lines = (json.dumps({"text": document.text}) for document in documents)
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    partial.replace(path)
