"""Labelled text in files: sentences with classes, pairs with scores, words with tags, answers.

CSV and TSV (tabs are never quoted), JSONL with an object or a list on every line, JSON with a list
of them. A JSON file may hold several such lists by name, {"train": [...], "test": [...]}: the one
that is meant stands behind a number sign, `data.json#test`.

| task | columns |
|---|---|
| text-classification | text, perhaps a second text, label; without a header first and last |
| sentence-embeddings | text and perhaps a label; or two texts and their similarity |
| token-classification | tokens and tags (JSON); token, tab, tag, a blank line after each sentence |
| question-answering | question, context, answers with text and answer_start; or SQuAD's own JSON |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.data.table import Table, read_table
from sprue.errors import InputError
from sprue.models.nets import ANSWERS, SENTENCES, TEXTS, TOKENS

IGNORED = -100  # the tag of what is not scored, as torch's cross entropy has it
_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("question", "sentence"),
    ("query", "passage"),
)
_TEXTS = (
    *("text", "sentence", "review", "question", "utterance", "query", "content", "comment"),
    *("tweet", "message", "document", "sentences", "texts"),
)
_LABELS = (
    *("label", "labels", "intent", "class", "target", "category", "sentiment", "stars", "rating"),
    *("gold_label", "is_duplicate", "label_text", "topic"),
)
_SCORES = ("score", "similarity", "similarity_score", "relatedness_score", *_LABELS)
_TAGS = ("tags", "ner_tags", "labels", "pos_tags", "chunk_tags")
_NAMED = 8  # names that a message lists


@dataclass(frozen=True)
class Gold:
    """Answers that count as right.

    Attributes:
        texts: as they stand in the context; none where the context does not answer the question.
        starts: for each the character of the context that it starts at.
    """

    texts: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """Labelled texts of one task.

    Attributes:
        source: the file, and the list in it, as they were given.
        task: one of `models.nets`.
        first: of each row a text, its words (tuple of str) where words have tags, or its question.
        second: of each row the other text, or the context of the question; None where there is no
            such thing.
        truth: of each row the number of its class, the numbers of its words' tags (tuple of int,
            IGNORED where a word is not scored), the similarity of its texts (float), or its `Gold`;
            None where texts have no label.
        classes: names in the order of the numbers: those of the model, else those of the file in
            alphabetical order; None where only numbers are known.
        fingerprint: sha256, in hexadecimal, over the file and the name of the list in it.
    """

    source: str
    task: str
    first: tuple[Any, ...]
    second: tuple[str, ...] | None
    truth: tuple[Any, ...] | None
    classes: tuple[str, ...] | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.first)

    def some(self, chosen: Sequence[int]) -> Rows:
        """Those at these places, in this order."""

        def at(column: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
            return None if column is None else tuple(column[i] for i in chosen)

        first = tuple(self.first[i] for i in chosen)
        return replace(self, first=first, second=at(self.second), truth=at(self.truth))

    def sample(self, count: int, seed: int) -> Rows:
        """So many of them, drawn without replacement; all where there are no more."""
        order = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.some(sorted(order.tolist()))


@dataclass(frozen=True)
class Answer:
    """What is true of a question, and where the tokens of its context stand.

    Attributes:
        context: the text that holds the answer.
        texts: answers that count as right; none where the context has no answer.
        offsets: int64 [tokens, 2], the characters of the context from which and up to which each
            token goes; -1 for a token that is not of the context.
    """

    context: str
    texts: tuple[str, ...]
    offsets: NDArray[np.int64]

    def between(self, first: int, last: int) -> str:
        """The text of the tokens from `first` to `last`, both included."""
        return self.context[int(self.offsets[first, 0]) : int(self.offsets[last, 1])]

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """First and last token of the characters from `start` up to `end`.

        None where the tokens do not hold all of them: the context was cut.
        """
        starts, ends = self.offsets.T
        found = np.flatnonzero((starts >= 0) & (starts < end) & (ends > start))
        if not len(found) or starts[found[0]] > start or ends[found[-1]] < end:
            return None
        return int(found[0]), int(found[-1])


def align_tags(word_ids: Sequence[int | None], tags: Sequence[int]) -> list[int]:
    """Tags of words as tags of the tokens that they were split into.

    Args:
        word_ids: of each token the word that it is of; None of special tokens and padding.
        tags: of each word.

    Returns:
        The tag of the word at its first token, IGNORED everywhere else.
    """
    before = [None, *word_ids]
    return [
        IGNORED if word is None or word == last else tags[word]
        for last, word in zip(before, word_ids, strict=False)
    ]


def read_rows(path: str | Path, task: str, classes: Sequence[str] | None = None) -> Rows:
    """The labelled texts of a file.

    Args:
        path: .csv, .tsv, .txt, .jsonl or .json; `FILE.json#NAME` for one of several lists.
        task: TEXTS, TOKENS, ANSWERS or SENTENCES of `models.nets`.
        classes: names in the order of the network's outputs; labels may be names or numbers.

    Raises:
        InputError: a file that is missing, empty, not UTF-8 or damaged, lines of unequal length, a
            column that is missing, or labels that the model does not know.
    """
    if task not in _READERS:
        raise InputError(f"{task} does not read text; expected one of {', '.join(_READERS)}")
    table = read_table(path, _is_header, lambda width: _places(width, task), task == TOKENS)
    first, second, truth, names = _READERS[task](table, classes)
    return Rows(str(path), task, first, second, truth, names, table.fingerprint)


_Columns = tuple[
    tuple[Any, ...], tuple[str, ...] | None, tuple[Any, ...] | None, tuple[str, ...] | None
]


def _texts(table: Table, classes: Sequence[str] | None) -> _Columns:
    first, second = _text_columns(table)
    labels = table.column(table.named(_LABELS, "labels"))
    return first, second, *_numbered(table, labels, classes)


def _sentences(table: Table, _: Sequence[str] | None) -> _Columns:
    first, second = _text_columns(table)
    if second is not None:
        told = table.column(table.named(_SCORES, "similarities"))
        return first, second, tuple(_score(table, i, x) for i, x in enumerate(told)), None
    if not any(table.has(name) for name in _LABELS):
        return first, None, None, None
    return first, None, *_numbered(table, table.column(table.named(_LABELS, "labels")), None)


def _tokens(table: Table, classes: Sequence[str] | None) -> _Columns:
    words = table.column(table.named(("tokens", "words"), "words"))
    tags = table.column(table.named(_TAGS, "tags"))
    for i, (some, theirs) in enumerate(zip(words, tags, strict=True)):
        _check_words(table, i, some, theirs)
    rows = [i for i, theirs in enumerate(tags) for _ in theirs]
    numbers, names = _numbered(table, [tag for theirs in tags for tag in theirs], classes, rows)
    ends = np.cumsum([len(some) for some in words])[:-1]
    truth = tuple(tuple(part.tolist()) for part in np.split(np.array(numbers, np.int64), ends))
    return tuple(tuple(some) for some in words), None, truth, names


def _answers(table: Table, _: Sequence[str] | None) -> _Columns:
    question = table.texts(table.named(("question",), "questions"))
    context = table.texts(table.named(("context",), "contexts"))
    told = table.column(table.named(("answers", "answer"), "answers"))
    gold = tuple(_gold(table, i, x, context[i]) for i, x in enumerate(told))
    return question, context, gold, None


_READERS: dict[str, Callable[[Table, Sequence[str] | None], _Columns]] = {
    TEXTS: _texts,
    SENTENCES: _sentences,
    TOKENS: _tokens,
    ANSWERS: _answers,
}


def _is_header(names: list[str]) -> bool:
    """A class may be called like a column of texts: alone, at the end, that tells nothing."""
    known = [name in _TEXTS or any(name in pair for pair in _PAIRS) for name in names]
    labels = any(name in _SCORES for name in names)
    return any(known[:-1]) or (any(known) and (labels or len(names) == 1))


def _places(width: int, task: str) -> list[str] | None:
    """Names for columns that have none."""
    if task == SENTENCES:
        known = ["text"], ["text", "label"], ["sentence1", "sentence2", "score"]
        return known[width - 1] if width <= len(known) else None
    if task != TEXTS or width < 2:
        return None
    return ["text", *(f"column {i}" for i in range(2, width)), "label"]


def _text_columns(table: Table) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    for one, other in _PAIRS:
        if table.has(one, other):
            return table.texts(one), table.texts(other)
    return table.texts(table.named(_TEXTS, "texts")), None


def _numbered(
    table: Table,
    labels: Sequence[Any],
    classes: Sequence[str] | None,
    rows: Sequence[int] | None = None,
) -> tuple[tuple[int, ...], tuple[str, ...] | None]:
    """Numbers of classes, and their names; of tags `rows` says which row each is of."""
    plain = [_plain(label) for label in labels]
    seen = list(dict.fromkeys(plain))
    names = tuple(classes) if classes is not None else None
    if names is None and not all(isinstance(label, int) for label in seen):
        names = tuple(sorted(str(label) for label in seen if label != ""))
    numbers = {label: _number(label, names) for label in seen}
    if rows is not None:
        numbers[IGNORED] = IGNORED
    found = [number for label in plain if (number := numbers[label]) is not None]
    if len(found) < len(plain):
        i = next(i for i, label in enumerate(plain) if numbers[label] is None)
        raise table.error(rows[i] if rows is not None else i, _unknown(plain[i], seen, names))
    return tuple(found), names


def _plain(label: Any) -> int | str:
    """A label as a number, where it is one, or as a name."""
    if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
        return int(label)
    text = str(label).strip()
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() else text


def _number(label: int | str, names: tuple[str, ...] | None) -> int | None:
    if names is not None and str(label) in names:
        return names.index(str(label))
    if isinstance(label, int):
        return label if label >= 0 and (names is None or label < len(names)) else None
    folded = [name.casefold() for name in names or ()]
    return folded.index(label.casefold()) if label.casefold() in folded else None


def _unknown(label: int | str, seen: Sequence[int | str], names: tuple[str, ...] | None) -> str:
    if label == "":
        return "no label"
    known = "numbers from 0" if names is None else _listed(names)
    have = _listed(sorted(str(other) for other in seen if other != ""))
    return f"the model does not know the label {label!r}; it knows {known}; the file has {have}"


def _listed(names: Sequence[str]) -> str:
    more = f" ... ({len(names)} in all)" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _score(table: Table, row: int, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise table.error(row, f"expected a number as the similarity of two texts, got {value!r}")
    return found


def _check_words(table: Table, row: int, words: Any, tags: Any) -> None:
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise table.error(row, "expected words as a list of texts")
    if not isinstance(tags, list) or len(tags) != len(words):
        count = f"{len(tags)} tags" if isinstance(tags, list) else f"{tags!r:.40}"
        raise table.error(row, f"expected a tag for each of {len(words)} words, got {count}")


def _gold(table: Table, row: int, told: Any, context: str) -> Gold:
    """Of {"text": [...], "answer_start": [...]}, or of a list of {"text", "answer_start"}."""
    texts: Any = None
    starts: Any = None
    if isinstance(told, Mapping):
        texts, starts = told.get("text"), told.get("answer_start")
    elif isinstance(told, list) and all(isinstance(one, Mapping) for one in told):
        texts, starts = ([one.get(key) for one in told] for key in ("text", "answer_start"))
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise table.error(
            row, 'expected answers as {"text": [...], "answer_start": [...]}, one start for each'
        )
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int):
            raise table.error(row, f"expected an answer's text and start, got {text!r}, {start!r}")
        if not 0 <= start <= len(context):
            raise table.error(row, f"an answer starts at {start}, outside of its context")
    return Gold(tuple(texts), tuple(starts))
