"""What a stronger model is expected to gain on a request, by the request alone.

Ridge regression on the outcomes of both (1: the stronger one alone was right, -1: the weaker one
alone), over hashed n-grams and a few figures of a text's shape: its length, its numbers, its marks.
Requests sent to the stronger model in the order of this gain make up APGR (RouteLLM: Ong et al.
2024, arXiv:2406.18665, section 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sprue.errors import InputError
from sprue.fleet.linear import F32, Vocabulary, matrix, sklearn, vocabulary

_RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0)
_HELD = 0.2  # of the requests, that the ridge is found on
_SHAPE = 0.1  # of a figure one standard deviation away, beside n-grams of length one
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_LEAST = 50  # requests

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """Trained on requests that both models have answered.

    Attributes:
        ridge: that was found best.
    """

    ridge: float
    _words: Vocabulary = field(repr=False)
    _weights: F32 = field(repr=False)
    _shape: F64 = field(repr=False)
    _scale: F64 = field(repr=False)
    _offset: float = field(repr=False)

    @classmethod
    def train(cls, texts: Sequence[str], gained: Sequence[float], seed: int = 0) -> Gain:
        """From requests and what the stronger model gained on each.

        Args:
            texts: requests.
            gained: score of the stronger model less that of the weaker one.
            seed: of what is held to find the ridge on.

        Raises:
            InputError: too few requests, or scikit-learn is missing.
        """
        if len(texts) < _LEAST or len(texts) != len(gained):
            raise InputError(
                f"expected at least {_LEAST} requests with a gain for each, got {len(texts)} and "
                f"{len(gained)}"
            )
        y = np.asarray(gained, np.float64)
        words = vocabulary(texts)
        figures = np.array([shape(text) for text in texts])
        scale = np.stack([figures.mean(0), np.maximum(figures.std(0), 1e-9)])
        X = _features(matrix(words, texts), figures, scale)
        held = np.random.default_rng(seed).permutation(len(y)) < _HELD * len(y)
        ridge = min(_RIDGES, key=lambda one: _missed(X, y, held, one))
        weights, offset = _fitted(X, y, ridge)
        cut = len(words.buckets)
        return cls(ridge, words, weights[:cut].astype(np.float32), weights[cut:], scale, offset)

    def expected(self, text: str) -> float:
        """What the stronger model is expected to gain on a request."""
        row = self._words.row(text)
        figures = _even(np.array(shape(text)), self._scale)
        said = float(row.values @ self._weights[row.columns])
        return said + float(figures @ self._shape) + self._offset


def shape(text: str) -> list[float]:
    """Figures of a text: lengths, numbers, and marks."""
    words = text.split()
    numbers = [float(one.replace(",", "")) for one in _NUMBER.findall(text)]
    marks = [float(text.count(mark)) for mark in "%/$,"]
    return [
        float(np.log1p(len(text))),
        float(np.log1p(len(words))),
        float(np.log1p(len(numbers))),
        float(np.log1p(min(1e15, max(numbers, default=0.0)))),
        float(sum(number != round(number) for number in numbers)),
        float(text.count(".") + text.count("?")),
        len({word.lower() for word in words}) / max(1, len(words)),
        float(np.mean([len(word) for word in words])) if words else 0.0,
        *marks,
    ]


def _features(grams: Any, figures: F64, scale: F64) -> Any:
    return sparse.hstack([grams, sparse.csr_matrix(_even(figures, scale))]).tocsr()


def _even(figures: F64, scale: F64) -> F64:
    """Figures of texts at the scale of n-grams."""
    found: F64 = _SHAPE * (figures - scale[0]) / scale[1]
    return found


def _fitted(X: Any, y: F64, ridge: float) -> tuple[F64, float]:
    model = sklearn("linear_model").Ridge(alpha=ridge, solver="sparse_cg", tol=1e-3)
    model.fit(X, y)
    return model.coef_, float(model.intercept_)


def _missed(X: Any, y: F64, held: NDArray[np.bool_], ridge: float) -> float:
    """Mean squared error on what was not fitted to."""
    weights, offset = _fitted(X[~held], y[~held], ridge)
    return float(np.square(y[held] - X[held] @ weights - offset).mean())


def recovered(expected: Sequence[float], weak: Sequence[float], strong: Sequence[float]) -> float:
    """APGR: the mean share of the gap between both models that is closed, over all shares of calls
    to the stronger one; requests go there in the order of what is expected. Chance: 0.5.

    Args:
        expected: gain of each request.
        weak, strong: what each model scores on it.

    Raises:
        InputError: models that are as good as one another.
    """
    order = np.argsort(-np.asarray(expected, np.float64), kind="stable")
    gained = (np.asarray(strong, np.float64) - np.asarray(weak, np.float64))[order]
    total = float(gained.sum())
    if total == 0:
        raise InputError("both models score the same: there is no gap to recover")
    closed = np.concatenate(([0.0], np.cumsum(gained))) / total
    return float(np.mean((closed[1:] + closed[:-1]) / 2))
