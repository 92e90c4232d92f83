"""Detectors: mean average precision as COCO defines it (Lin et al. 2014, and its evaluation page).

Detections are matched once for each image and class; a score over any choice of images only adds
them up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.proof.scores.decoding import Detections, decode, overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_EACH = 100  # detections of a class in an image
_NONE = np.zeros(0), *(np.zeros((0, len(THRESHOLDS)), bool),) * 2  # matches of no class
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
    """Detections over all images, class by class, the likeliest of a class first.

    Attributes:
        image, kind: int64 [n], of each its image and the column of its class in `true`.
        hit: bool [n, thresholds].
        ignored: bool [n, thresholds], matched to a crowd.
        true: int64 [images, classes], objects that are no crowd.
    """

    image: NDArray[np.int64]
    kind: NDArray[np.int64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    true: NDArray[np.int64]

    @cached_property
    def hits(self) -> tuple[NDArray[np.int64], ...]:
        """Of each hit, threshold after threshold.

        Returns:
            int64 [hits] each: its detection, the first detection of its class, threshold and class
            as one number, the first hit with the same.
        """
        at, place = np.nonzero(self.hit.T)
        curve = at * self.true.shape[1] + self.kind[place]
        first = np.searchsorted(self.kind, self.kind[place])
        return place, first, curve, np.searchsorted(curve, curve)

    @cached_property
    def spared(self) -> tuple[NDArray[np.int64], ...]:
        """Of what is ignored, threshold after threshold: its detection; and of each hit how many of
        them stand before the first detection of its class, and before itself."""
        at, place = np.nonzero(self.ignored.T)
        n = len(self.image)
        own, first, curve, _ = self.hits
        base = curve // self.true.shape[1] * n
        key = at * n + place
        return place, np.searchsorted(key, base + first), np.searchsorted(key, base + own)


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

    def read(self, outputs: NDArray[Any], truth: Any) -> Matches:
        """Matches of every class that occurs."""
        true = self.instead if self.instead is not None else truth
        found = decode(outputs, self.decoder, self.size)
        places = [one.original(d.boxes) for d, one in zip(found, true, strict=True)]
        classes = sorted({int(c) for one in true for c in one.classes})
        parts = [_matched(c, found, places, true) for c in classes]
        image, hit, ignored = (np.concatenate(some) for some in zip(_NONE, *parts, strict=True))
        sizes = [len(some) for some, _, _ in parts]
        counts = [[_objects(one, c) for c in classes] for one in true]
        return Matches(
            image.astype(np.int64),
            np.repeat(np.arange(len(classes)), sizes),
            hit,
            ignored,
            np.array(counts, np.int64).reshape(len(true), len(classes)),
        )

    def value(self, got: Matches, chosen: NDArray[np.int64]) -> float:
        """Over the chosen images, the mean over the classes that occur in them.

        The interpolated precision at a recall is the largest at that recall or beyond, and is
        always that of a hit: what lies between two hits need not be looked at, and an image that
        was drawn k times counts as k detections at once.
        """
        weight = np.bincount(chosen, minlength=len(got.true))
        total = weight @ got.true
        if not total.any():
            return 0.0
        place, start, curve, first = got.hits
        count = int(np.searchsorted(curve, self.thresholds * got.true.shape[1]))
        place, start, curve, first = (x[:count] for x in (place, start, curve, first))
        drawn = weight[got.image]
        right = _from(drawn[place], first)
        run = _sums(drawn)
        all_ = run[place + 1] - run[start] - self._spared(got, drawn, count)
        precision = _largest_after(right / np.maximum(all_, 1), curve)
        recall = right / np.maximum(total, 1)[curve % len(total)]
        reached = np.searchsorted(_RECALLS, recall, "right")
        before = np.concatenate(([0], reached))[:count]
        before[first == np.arange(count)] = 0
        area = np.bincount(curve, precision * (reached - before), self.thresholds * len(total))
        return float(area.reshape(self.thresholds, -1)[:, total > 0].mean() / len(_RECALLS))

    def _spared(self, got: Matches, drawn: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Ignored detections of the class before each hit."""
        place, start, end = got.spared
        run = _sums(drawn[place])
        return np.asarray(run[end[:count]] - run[start[:count]])

    def count(self, got: Matches) -> int:
        """Of images."""
        return len(got.true)


def _objects(one: Any, c: int) -> int:
    """How many objects of a class there are that are no crowd."""
    return int((~np.asarray(one.crowd) & (np.asarray(one.classes) == c)).sum())


def _matched(
    c: int, found: Sequence[Detections], places: Sequence[Any], true: Sequence[Any]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Image, hit and ignored of the detections of a class, the likeliest first."""
    rows, scores = [], []
    for i, (one, boxes, seen) in enumerate(zip(found, places, true, strict=True)):
        mine, theirs = np.flatnonzero(one.classes == c)[:_EACH], seen.classes == c
        crowd = np.asarray(seen.crowd)[theirs]
        hit, ignored = matched(boxes[mine], np.asarray(seen.boxes)[theirs], crowd)
        rows.append((np.full(len(mine), i), hit, ignored))
        scores.append(one.scores[mine])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    image, hit, ignored = (np.concatenate(part)[order] for part in zip(*rows, strict=True))
    return image, hit, ignored


def _sums(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the first 0, 1, 2 ... elements."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(x)))


def _from(x: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each element the sum from its `first` up to itself."""
    run = _sums(x)
    return np.asarray(run[1:] - run[first])


def _largest_after(x: NDArray[np.float64], curve: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each element the largest from it to the end of its curve; x lies between 0 and 1."""
    lifted = x[::-1] - 2.0 * curve[::-1]  # curves that come later never reach into earlier ones
    return np.asarray(np.maximum.accumulate(lifted)[::-1] + 2.0 * curve)


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
