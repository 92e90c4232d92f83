"""A linear classifier over hashed n-grams: trained by scikit-learn, run by NumPy.

Counts are damped and weighed by how rare an n-gram is (tf-idf), characters and words each to length
one, the outline to half of that. N-grams that no training text had count in that length too: of a
text that is unlike all of them little is left, and all scores are low. Scores are turned into
probabilities by a logistic curve fitted to texts that the classifier had not seen (Platt 1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sprue.extras import needed
from sprue.fleet.features import BITS, Buckets, Grams, grams

_C = 0.3  # inverse of the ridge; of little influence from 0.1 to 1
_FOLDS = 4
_WORDS, _OUTLINES = 1 << BITS, 2 << BITS  # buckets before those of words, and of outlines
_LENGTHS = 1.0, 1.0, 0.5  # of what is said by characters, words and the outline

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """A text as its features.

    Attributes:
        columns: int64 [n], distinct; those that training had.
        values: float32 [n].
    """

    columns: Buckets
    values: F32


@dataclass(frozen=True)
class Vocabulary:
    """N-grams that training texts had.

    Attributes:
        buckets: int64 [columns], ascending; those of words lie after all of characters, and those
            of outlines after these.
        rarity: float32 [columns], inverse document frequency.
        unseen: the rarity of an n-gram that none had.
    """

    buckets: Buckets
    rarity: F32
    unseen: float

    @cached_property
    def _column(self) -> NDArray[np.int32]:
        """Bucket -> column; -1: none."""
        found = np.full(3 << BITS, -1, np.int32)
        found[self.buckets] = np.arange(len(self.buckets), dtype=np.int32)
        return found

    def row(self, text: str) -> Row:
        """The features of a text."""
        blocks = map(self._block, _buckets(grams(text)), _LENGTHS)
        return Row(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))

    def _block(self, buckets: Buckets, size: float) -> tuple[Buckets, F32]:
        distinct, counts = np.unique(buckets, return_counts=True)
        columns = self._column[distinct]
        seen = columns >= 0
        damped = 1 + np.log(counts)
        values = damped * np.where(seen, self.rarity[columns], self.unseen)
        scale = size / (float(np.sqrt(values @ values)) or 1.0)
        return columns[seen].astype(np.int64), (values[seen] * scale).astype(np.float32)


def _buckets(found: Grams) -> tuple[Buckets, Buckets, Buckets]:
    """Of characters, of words and pairs, and of the outline; each kind has its own."""
    words = np.concatenate((found.words, found.pairs)) + _WORDS
    return found.characters, words, found.outlines + _OUTLINES


def vocabulary(texts: Sequence[str]) -> Vocabulary:
    """Of these texts."""
    count = np.zeros(3 << BITS, np.int64)
    for text in texts:
        count[np.unique(np.concatenate(_buckets(grams(text))))] += 1
    buckets = np.flatnonzero(count)
    rarity = np.log((1 + len(texts)) / (1 + count[buckets])) + 1
    return Vocabulary(buckets, rarity.astype(np.float32), float(np.log(1 + len(texts)) + 1))


@dataclass(frozen=True)
class Linear:
    """Scores of classes, each by itself.

    Attributes:
        words: what it reads.
        weights: float32 [columns, classes].
        bias: float32 [classes].
        curve: float32 [2, classes], slope and offset of the log-odds.
    """

    words: Vocabulary
    weights: F32
    bias: F32
    curve: F32

    def margins(self, text: str) -> F32:
        """[classes], what lies on which side of the plane."""
        row = self.words.row(text)
        found: F32 = row.values @ self.weights[row.columns] + self.bias
        return found

    def probabilities(self, text: str) -> F32:
        """[classes], each in 0..1; they need not add up to one."""
        return calibrated(self.margins(text), self.curve)

    def evidence(self, text: str) -> Evidence:
        """The margins of a text, taken apart by its words, times the root of their number."""
        found = grams(text)
        count, classes = len(found.words), len(self.bias)
        letters, both, outlines = map(self._said, _buckets(found), _LENGTHS)
        words = np.zeros((count, classes), np.float32)
        np.add.at(words, found.owners, letters)
        np.add.at(words, found.places, outlines)
        words += both[:count] + self.bias / max(1, count)
        pairs = np.zeros_like(words)
        pairs[1:] = both[count:]
        scale = np.float32(count**0.5)
        return Evidence(words * scale, pairs * scale)

    def _said(self, buckets: Buckets, size: float) -> F32:
        """Of each n-gram what it says for each class."""
        columns = self.words._column[buckets]
        seen = columns >= 0
        rarity = np.where(seen, self.words.rarity[columns], self.words.unseen)
        scale = size / (float(np.sqrt(rarity @ rarity)) or 1.0)
        return self.weights[columns] * (scale * rarity * seen)[:, None].astype(np.float32)


@dataclass(frozen=True)
class Evidence:
    """What each word of a text says for each class, at one scale for texts of all lengths.

    Attributes:
        words: float32 [words, classes].
        pairs: float32 [words, classes], what a word says together with the one before it.
    """

    words: F32
    pairs: F32


def calibrated(margins: F32, curve: F32) -> F32:
    """Probabilities of margins [..., classes]."""
    found: F32 = 1 / (1 + np.exp(-np.clip(curve[0] * margins + curve[1], -30, 30)))
    return found


def fit(texts: Sequence[str], truth: NDArray[np.bool_], fold: Buckets) -> tuple[Linear, F32]:
    """A classifier, and the probabilities of its texts by ones like it that had not seen them.

    Args:
        texts: at least two of each class, and two of each that are not.
        truth: bool [texts, classes].
        fold: int64 [texts], as `folds` deals them out.

    Returns:
        The classifier; float32 [texts, classes].

    Raises:
        InputError: scikit-learn is missing.
    """
    words = vocabulary(texts)
    X = matrix(words, texts)
    outside = np.zeros(truth.shape, np.float32)
    for k in range(int(fold.max()) + 1):
        weights, bias = _planes(X[fold != k], truth[fold != k])
        outside[fold == k] = X[fold == k] @ weights + bias
    curve = np.stack([_curve(outside[:, c], truth[:, c]) for c in range(truth.shape[1])], 1)
    return Linear(words, *_planes(X, truth), curve), calibrated(outside, curve)


def fit_once(words: Vocabulary, texts: Sequence[str], truth: NDArray[np.bool_]) -> Linear:
    """A classifier whose scores are margins alone."""
    plain = np.stack([np.ones(truth.shape[1]), np.zeros(truth.shape[1])]).astype(np.float32)
    return Linear(words, *_planes(matrix(words, texts), truth), plain)


def sklearn(part: str) -> Any:
    """A module of scikit-learn.

    Raises:
        InputError: it is not installed.
    """
    return needed(f"sklearn.{part}", "fleet", "training a router")


def matrix(words: Vocabulary, texts: Sequence[str]) -> Any:
    """Features of texts, sparse [texts, columns]."""
    rows = [words.row(text) for text in texts]
    ends = np.cumsum([0, *(len(row.columns) for row in rows)])
    columns = np.concatenate([row.columns for row in rows])
    values = np.concatenate([row.values for row in rows])
    return sparse.csr_matrix((values, columns, ends), (len(texts), len(words.buckets)))


def folds(truth: NDArray[np.bool_], seed: int) -> Buckets:
    """Fold of each text, int64 [texts]: those of the same classes are dealt out in turn."""
    rng = np.random.default_rng(seed)
    _, kind = np.unique(truth, axis=0, return_inverse=True)
    found = np.zeros(len(truth), np.int64)
    order = rng.permutation(len(truth))
    order = order[np.argsort(kind.ravel()[order], kind="stable")]
    found[order] = np.arange(len(truth)) % _FOLDS
    return found


def _planes(X: Any, truth: NDArray[np.bool_]) -> tuple[F32, F32]:
    """[columns, classes] and [classes]; of a class that is empty here nothing is."""
    LinearSVC = sklearn("svm").LinearSVC
    weights = np.zeros((X.shape[1], truth.shape[1]), np.float32)
    bias = np.full(truth.shape[1], -1, np.float32)
    for c in range(truth.shape[1]):
        if truth[:, c].any() and not truth[:, c].all():
            plane = LinearSVC(C=_C, dual=True, random_state=0).fit(X, truth[:, c])
            weights[:, c], bias[c] = plane.coef_[0], plane.intercept_[0]
    return weights, bias


def _curve(margins: F32, truth: NDArray[np.bool_]) -> F32:
    found = (
        sklearn("linear_model")
        .LogisticRegression(C=1e3)
        .fit(margins[:, None].astype(np.float64), truth)
    )
    return np.array([found.coef_[0, 0], found.intercept_[0]], np.float32)
