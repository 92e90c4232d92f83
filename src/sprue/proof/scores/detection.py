"""Detectors: mean average precision as COCO defines it (Lin et al. 2014, and its evaluation page).

Detections are matched once for each image and class; a score over any choice of images only adds
them up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.proof.scores.decoding import Detections, decode, overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_EACH = 100  # detections of a class in an image
_SURE = 0.3  # score from which a detection of the original stands for the truth


@dataclass(frozen=True)
class Seen:
    """What is true of one image, in pixels of the array.

    Attributes:
        boxes: float [n, 4], left, top, right, bottom.
        classes: int [n].
        crowd: bool [n].
    """

    boxes: NDArray[Any]
    classes: NDArray[Any]
    crowd: NDArray[np.bool_]

    def original(self, boxes: NDArray[Any]) -> NDArray[Any]:
        """These boxes are already in the pixels of the detections."""
        return boxes


@dataclass(frozen=True)
class Matches:
    """Of one class, over all images; detections ordered by score, the likeliest first.

    Attributes:
        image: int64 [n].
        hit: bool [n, thresholds].
        ignored: bool [n, thresholds], matched to a crowd.
        true: int64 [images], objects that are no crowd.
    """

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    true: NDArray[np.int64]


@dataclass(frozen=True)
class MeanAveragePrecision:
    """mAP over the thresholds of overlap .5 to .95, or at .5 alone.

    Attributes:
        decoder: how outputs are read.
        size: (height, width) of the array.
        thresholds: how many of THRESHOLDS count, from the first.
        name: of the metric.
        instead: what counts as true where nothing is known.
    """

    decoder: str
    size: tuple[int, int]
    thresholds: int = 10
    name: str = "mAP50-95"
    instead: Sequence[Seen] | None = None
    mean: bool = False

    def read(self, outputs: NDArray[Any], truth: Any) -> list[Matches]:
        """Matches of every class that occurs."""
        true = self.instead if self.instead is not None else truth
        found = decode(outputs, self.decoder, self.size)
        classes = sorted({int(c) for one in true for c in one.classes})
        places = [one.original(d.boxes) for d, one in zip(found, true, strict=True)]
        return [self._matched(c, found, places, true) for c in classes]

    def _matched(
        self, c: int, found: Sequence[Detections], places: Sequence[Any], true: Sequence[Any]
    ) -> Matches:
        rows, scores, counts = [], [], []
        for i, (one, boxes, seen) in enumerate(zip(found, places, true, strict=True)):
            mine, theirs = np.flatnonzero(one.classes == c)[:_EACH], seen.classes == c
            crowd = np.asarray(seen.crowd)[theirs]
            hit, ignored = matched(boxes[mine], np.asarray(seen.boxes)[theirs], crowd)
            rows.append((np.full(len(mine), i), hit, ignored))
            scores.append(one.scores[mine])
            counts.append(int((~crowd).sum()))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        image, hit, ignored = (np.concatenate(part)[order] for part in zip(*rows, strict=True))
        return Matches(image.astype(np.int64), hit, ignored, np.array(counts, np.int64))

    def value(self, got: Sequence[Matches], chosen: NDArray[np.int64]) -> float:
        """Over the chosen images, the mean over the classes that occur in them."""
        images = len(got[0].true) if got else 0
        weight = np.bincount(chosen, minlength=images)
        found = [self._precision(one, weight) for one in got if (one.true * weight).any()]
        return float(np.mean(found)) if found else 0.0

    def _precision(self, one: Matches, weight: NDArray[np.int64]) -> float:
        """Average precision of a class, the mean over the thresholds."""
        n, w = self.thresholds, weight[one.image][:, None]
        true = np.cumsum(w * one.hit[:, :n], 0)
        false = np.cumsum(w * ~(one.hit[:, :n] | one.ignored[:, :n]), 0)
        if not len(true):
            return 0.0
        recall = true / (one.true * weight).sum()
        precision = true / np.maximum(true + false, 1e-12)
        best = np.maximum.accumulate(precision[::-1], 0)[::-1]
        found = []
        for t in range(n):
            at = np.searchsorted(recall[:, t], _RECALLS, "left")
            inside = at < len(best)
            found.append(best[at[inside], t].sum() / len(_RECALLS))
        return float(np.mean(found))

    def count(self, got: Sequence[Matches]) -> int:
        """Of images."""
        return len(got[0].true) if got else 0


def matched(
    boxes: NDArray[Any], true: NDArray[Any], crowd: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections meet an object, at each threshold; the likeliest chooses first.

    Args:
        boxes: [n, 4], the likeliest first.
        true: [m, 4], objects of the same class.
        crowd: [m], regions that any number of detections may meet, and none counts.

    Returns:
        bool [n, thresholds]: met an object; met nothing but a crowd.
    """
    hit = np.zeros((len(boxes), len(THRESHOLDS)), bool)
    ignored = np.zeros_like(hit)
    if not len(boxes) or not len(true):
        return hit, ignored
    near = overlaps(boxes, true, crowd)
    for t, least in enumerate(THRESHOLDS):
        free = ~crowd
        for i in range(len(boxes)):
            open_ = np.where(free, near[i], -1.0)
            best = int(open_.argmax())
            if open_[best] >= least:
                hit[i, t], free[best] = True, False
            elif (near[i][crowd] >= least).any():
                ignored[i, t] = True
    return hit, ignored


def stand_in(outputs: NDArray[Any], decoder: str, size: tuple[int, int]) -> list[Seen]:
    """What the original is sure of, as the truth."""
    found = []
    for one in decode(outputs, decoder, size):
        sure = one.some(np.flatnonzero(one.scores >= _SURE))
        found.append(Seen(sure.boxes, sure.classes, np.zeros(len(sure.scores), bool)))
    return found
