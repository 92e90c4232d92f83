"""Encoders of sentences: rank correlation with stated similarities, and nearest neighbors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sprue.proof.scores.paired import Means

_NEIGHBORS = 10
_ROWS = 512  # of similarities at once


@dataclass(frozen=True)
class Spearman:
    """Rank correlation of the cosine of two texts with the similarity that people gave."""

    name: str = "Spearman"
    mean: bool = False

    def read(self, outputs: NDArray[Any], truth: Any) -> NDArray[np.float64]:
        """[pairs, 2], cosine and truth; vectors [2 pairs, width], the texts of a pair in turn."""
        unit = normal(outputs)
        cosine = (unit[0::2] * unit[1::2]).sum(1)
        return np.stack([cosine, np.asarray(truth, np.float64)], 1)

    def value(self, got: NDArray[np.float64], chosen: NDArray[np.int64]) -> float:
        """Over the chosen pairs."""
        some = got[chosen]
        return _correlation(some[:, 0], some[:, 1])

    def count(self, got: NDArray[np.float64]) -> int:
        """Of pairs."""
        return len(got)


@dataclass(frozen=True)
class Nearest(Means):
    """The share of texts whose nearest neighbor among the others has their label."""

    name: str = "nearest neighbor"

    def read(self, outputs: NDArray[Any], truth: Any) -> NDArray[np.float64]:
        """1 or 0 for each text."""
        labels = np.asarray(truth)
        return np.asarray(labels[neighbors(outputs, 1)[:, 0]] == labels, np.float64)


@dataclass(frozen=True)
class Neighbors(Means):
    """The share of a text's ten nearest neighbors that it also has in the original.

    Attributes:
        original: its vectors.
    """

    original: NDArray[Any]
    name: str = "shared neighbors"

    def read(self, outputs: NDArray[Any], truth: Any) -> NDArray[np.float64]:
        """A share for each text."""
        del truth
        count = min(_NEIGHBORS, len(outputs) - 1)
        a, b = (neighbors(v, count) for v in (self.original, outputs))
        return np.array([len(set(x) & set(y)) / count for x, y in zip(a, b, strict=True)])


@dataclass(frozen=True)
class Ranking(Means):
    """Rank correlation of a text's similarities to all others with those in the original.

    Attributes:
        original: its vectors.
    """

    original: NDArray[Any]
    name: str = "ranking of neighbors"

    def read(self, outputs: NDArray[Any], truth: Any) -> NDArray[np.float64]:
        """A correlation for each text."""
        del truth
        a, b = normal(self.original), normal(outputs)
        rest = ~np.eye(len(a), dtype=bool)
        return np.array([_correlation((a @ a[i])[m], (b @ b[i])[m]) for i, m in enumerate(rest)])


def normal(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Of length 1; of length 0 where they are, or are not finite."""
    wide = np.asarray(vectors, np.float64)
    wide = np.where(np.isfinite(wide).all(1, keepdims=True), wide, 0.0)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(length, 1e-12), np.float64)


def neighbors(vectors: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Of each the nearest others by cosine, the nearest first, int64 [texts, count]."""
    unit = normal(vectors)
    found = []
    for start in range(0, len(unit), _ROWS):
        near = unit[start : start + _ROWS] @ unit.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf
        found.append(np.argsort(-near, 1, kind="stable")[:, :count])
    return np.concatenate(found).astype(np.int64)


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Spearman's; 0 where one side is all the same."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])
