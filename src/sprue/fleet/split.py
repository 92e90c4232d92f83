"""A request with several needs, as spans that need one each.

Every word says something for every capability (`linear.evidence`). Of all ways to give each word
one, the best is taken: what words say for what they were given, and pairs of neighbors that were
given the same, less a price wherever it changes (Viterbi 1967). Changes at ends of sentences, at
commas and at joining words have prices of their own; what they are is found on texts that are
joined in pairs, and on single ones, which have to stay whole.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sprue.fleet.features import LONGEST
from sprue.fleet.linear import Evidence, Linear, Vocabulary, fit_once

_WORD = re.compile(r"\S+")
_JOINING = frozenset(["and", "then", "also", "plus", "or", "next", "afterwards", "but"])
_MARKS = ".,;:!?"
_ENDS = (".", "?", "!", ";", ":")
_JOINTS = (" and ", ", ", ". ", " then ", "\n", " also ", " ")
_GRID = (2.0, 3.0, 4.0, 6.0, 9.0), (1.0, 1.5, 2.0, 3.0), (0.25, 0.5, 1.0, 2.0)
_SHOWN = 300  # pairs that prices are found on, and twice as many single texts
_MADE = 0.5  # pairs and pieces of texts that are made to train with, each as a share of all texts
_MOST_MADE = 10_000
_PART = 0.5, 0.9  # of the words of a text
_HELD = 0.2  # of the texts, that prices are found on

Truth = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Prices:
    """What a change costs.

    Attributes:
        space: between two words.
        joint: at a comma or a joining word.
        end: at the end of a sentence or line.
    """

    space: float
    joint: float
    end: float


@dataclass(frozen=True)
class Word:
    """A word of a request.

    Attributes:
        start, end: its characters.
        before: what stands before it, as `Prices` names it.
        joins: whether it joins others, and says nothing itself.
    """

    start: int
    end: int
    before: str
    joins: bool


def words_of(text: str) -> list[Word]:
    """The words, with what stands before each."""
    found: list[Word] = []
    last = ""
    for match in _WORD.finditer(text):
        gap = text[found[-1].end : match.start()] if found else ""
        joins = _bare(match[0]) in _JOINING or not _bare(match[0])
        found.append(Word(match.start(), match.end(), _between(last, gap, match[0]), joins))
        last = match[0]
    return found


def _between(last: str, gap: str, word: str) -> str:
    if last.endswith(_ENDS) or "\n" in gap:
        return "end"
    joined = _bare(word) in _JOINING or _bare(last) in _JOINING
    return "joint" if joined or last.endswith(",") else "space"


def _bare(word: str) -> str:
    return word.strip(_MARKS).lower()


@dataclass(frozen=True)
class Splitter:
    """Cuts requests into spans.

    Attributes:
        linear: what words say; trained on pairs and pieces of texts too.
        prices: of changes.
    """

    linear: Linear
    prices: Prices

    def split(self, text: str) -> list[tuple[int, int]]:
        """Characters of each span, in order, without words and marks that join them."""
        words = words_of(text[:LONGEST])
        needs = best(self.linear.evidence(text), words, self.prices)
        edges = [0, *(i for i in range(1, len(needs)) if needs[i] != needs[i - 1]), len(needs)]
        if len(edges) < 3:
            return [(0, len(text))]
        found = [_trimmed(words[a:b]) for a, b in itertools.pairwise(edges)]
        if len(text) > LONGEST:  # what was not looked at stays with the last
            found[-1] = found[-1][0], len(text)
        return found


def best(said: Evidence, words: Sequence[Word], prices: Prices) -> list[int]:
    """The class of each word, by what can be said for all of them less the price of changes."""
    count = len(said.words)
    if not count:
        return []
    silent = np.array([word.joins for word in words])
    word, pair = said.words, said.pairs
    word = np.where(silent[:, None], 0, word)
    came = np.zeros(word.shape, np.int64)
    own = np.arange(word.shape[1])
    value = word[0]
    for i in range(1, count):
        source = np.full(len(own), int(value.argmax()))  # a change comes from another class
        others = np.delete(own, source[0])
        source[source[0]] = others[value[others].argmax()] if len(others) else source[0]
        stay, change = value + pair[i], value[source] - getattr(prices, words[i].before)
        came[i] = np.where(stay >= change, own, source)
        value = np.maximum(stay, change) + word[i]
    found = [int(value.argmax())]
    for i in range(count - 1, 0, -1):
        found.append(int(came[i][found[-1]]))
    return found[::-1]


def _trimmed(words: Sequence[Word]) -> tuple[int, int]:
    """A span without joining words and marks at its ends, unless that is all that it is."""
    plain = [word for word in words if not word.joins] or words
    return plain[0].start, plain[-1].end


def train(texts: Sequence[str], truth: Truth, words: Vocabulary, seed: int) -> Splitter:
    """From texts of one class each; others are not looked at.

    Args:
        texts: of a language as requests have it.
        truth: bool [texts, classes].
        words: what is read.
        seed: of what is joined and cut.
    """
    rng = np.random.default_rng(seed)
    single, none = (np.flatnonzero(truth.sum(1) == k) for k in (1, 0))
    held, rest = np.split(rng.permutation(single), [round(_HELD * len(single))])
    prices = _priced(_shown(texts, truth, held, rng), _fitted(texts, truth, rest, none, words, rng))
    return Splitter(_fitted(texts, truth, single, none, words, rng), prices)


def _fitted(
    texts: Sequence[str],
    truth: Truth,
    rows: Rows,
    none: Rows,
    words: Vocabulary,
    rng: np.random.Generator,
) -> Linear:
    """On these texts, and on pairs and pieces of them; texts of no class count too."""
    shown = [texts[i] for i in (*rows, *none)]
    needs = [truth[[*rows, *none]]]
    count = min(_MOST_MADE, round(_MADE * len(rows)))
    for k in range(count):
        i, j = rng.choice(rows, 2)
        shown += [texts[i] + _JOINTS[k % len(_JOINTS)] + texts[j], _piece(texts[i], rng)]
        needs.append(np.stack((truth[i] | truth[j], truth[i])))
    return fit_once(words, shown, np.concatenate(needs))


def _piece(text: str, rng: np.random.Generator) -> str:
    """The beginning or the end of a text."""
    words = text.split()
    count = max(1, round(len(words) * rng.uniform(*_PART)))
    return " ".join(words[:count] if rng.random() < 0.5 else words[-count:])


def _shown(
    texts: Sequence[str], truth: Truth, rows: Rows, rng: np.random.Generator
) -> list[tuple[str, set[int]]]:
    """Single texts, and half as many joined ones, each with its needs: most requests are single."""
    need = truth.argmax(1)
    found = [(texts[i], {int(need[i])}) for i in rng.permutation(rows)[: 2 * _SHOWN]]
    if len(np.unique(need[rows])) < 2:
        return found
    most = len(found) + len(found) // 2
    while len(found) < most:
        i, j = rng.choice(rows, 2)
        if need[i] != need[j]:
            text = texts[i] + _JOINTS[len(found) % len(_JOINTS)] + texts[j]
            found.append((text, {int(need[i]), int(need[j])}))
    return found


def _priced(shown: Sequence[tuple[str, set[int]]], linear: Linear) -> Prices:
    """At which as many as can be of these fall apart into their needs, and into nothing else."""
    looked = [(linear.evidence(text), words_of(text), true) for text, true in shown]
    found, right = Prices(*(prices[-1] for prices in _GRID)), -1
    for space, joint, end in itertools.product(*_GRID):
        tried = Prices(space, joint, end)
        if space > joint >= end:
            met = sum(set(best(said, words, tried)) == true for said, words, true in looked)
            if met > right:
                found, right = tried, met
    return found
