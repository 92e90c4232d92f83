"""Classifiers: top-1, top-5, agreement with the original, F1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError
from sprue.proof.scores.paired import Means


@dataclass(frozen=True)
class Top(Means):
    """The share of examples whose class is among the k likeliest.

    Attributes:
        k: so many.
        name: of the metric.
    """

    k: int = 1
    name: str = "top-1"

    def read(self, outputs: NDArray[Any], truth: Any) -> NDArray[np.float64]:
        """1 or 0 for each example; logits [examples, classes]."""
        labels = labels_of(outputs, truth)
        best = np.argsort(-outputs, 1, kind="stable")[:, : self.k]
        finite = np.isfinite(outputs).all(1)  # an argmax of NaN would be right by chance
        return np.asarray((best == labels[:, None]).any(1) & finite, np.float64)


@dataclass(frozen=True)
class Agreement(Means):
    """The share of examples to which the answer is the original's, where no truth is known.

    Attributes:
        original: its logits.
    """

    original: NDArray[Any]
    name: str = "top-1 agreement"

    def read(self, outputs: NDArray[Any], truth: Any) -> NDArray[np.float64]:
        """1 or 0 for each example."""
        del truth
        same = outputs.argmax(-1) == self.original.argmax(-1)
        return np.asarray(same.reshape(len(same), -1).mean(1), np.float64)


@dataclass(frozen=True)
class MacroF1:
    """The mean over classes of F1; classes that neither occur nor are given do not count."""

    name: str = "macro F1"
    mean: bool = False

    def read(self, outputs: NDArray[Any], truth: Any) -> NDArray[np.int64]:
        """[examples, 2], the class that was given and the true one."""
        labels = labels_of(outputs, truth)
        return np.stack([outputs.argmax(1), labels], 1).astype(np.int64)

    def value(self, got: NDArray[np.int64], chosen: NDArray[np.int64]) -> float:
        """Over the chosen ones."""
        given, true = got[chosen].T
        most = int(got.max()) + 1
        hits = np.bincount(true[given == true], minlength=most)
        total = np.bincount(given, minlength=most) + np.bincount(true, minlength=most)
        return float(np.mean(2 * hits[total > 0] / total[total > 0]))

    def count(self, got: NDArray[np.int64]) -> int:
        """Of examples."""
        return len(got)


def labels_of(outputs: NDArray[Any], truth: Any) -> NDArray[np.int64]:
    """Numbers of classes, int64 [examples].

    Raises:
        InputError: one that the network has no output for.
    """
    labels = np.asarray(truth, np.int64)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[-1]:
        wrong = int(labels.max()) if labels.min() >= 0 else int(labels.min())
        raise InputError(
            f"a label is number {wrong}, the network tells only {outputs.shape[-1]} "
            "classes apart: labels and model do not match"
        )
    return labels
