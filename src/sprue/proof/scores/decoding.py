"""Outputs of detectors as boxes with scores, and of boxes that overlap only the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError

_STRIDES = (8, 16, 32)
_LEAST = 1e-3  # score below which nothing counts
_OVERLAP = 0.65  # above which the weaker of two boxes of a class goes
_CANDIDATES = 2000  # boxes of an image before that
_MOST = 300  # and after
_GROWN = 20.0  # logarithm of cells in a side: far beyond any image, far from overflow


@dataclass(frozen=True)
class Detections:
    """In one image, the likeliest first.

    Attributes:
        boxes: float64 [n, 4], left, top, right, bottom, pixels of the array.
        scores: float64 [n].
        classes: int64 [n].
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]

    def some(self, chosen: NDArray[Any]) -> Detections:
        """Those at these places."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


def decode(outputs: NDArray[Any], decoder: str, size: tuple[int, int]) -> list[Detections]:
    """The detections of each image.

    Args:
        outputs: [images, ...]. "yolox": [anchors, 5 + classes], box in units of the grid, score of
            an object, scores of classes. "yolov5": the same with boxes in pixels, center and size.
            "yolov8": [4 + classes, anchors], no score of an object. "detr": [queries, 4 + classes
            + 1], box relative, logits of which the last says that nothing is there.
        decoder: one of these.
        size: (height, width) of the array.

    Raises:
        InputError: outputs of another shape.
    """
    _check(outputs, decoder)
    if decoder == "detr":
        return [_queries(one, size) for one in np.asarray(outputs, np.float64)]
    return [_anchors(one, decoder, size) for one in np.asarray(outputs, np.float64)]


def _check(outputs: NDArray[Any], decoder: str) -> None:
    least = {"yolox": 6, "yolov5": 6, "yolov8": 5, "detr": 6}[decoder]
    if outputs.ndim != 3 or outputs.shape[1 if decoder == "yolov8" else 2] < least:
        raise InputError(
            f"{decoder} reads outputs [images, boxes, numbers], got {list(outputs.shape)}: state "
            "another --decoder"
        )


def _queries(one: NDArray[Any], size: tuple[int, int]) -> Detections:
    logits = one[:, 4:]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p = (p / p.sum(1, keepdims=True))[:, :-1]
    boxes = _corners(one[:, :4]) * np.array([size[1], size[0]] * 2)
    return _ordered(Detections(boxes, p.max(1), p.argmax(1)))


def _anchors(one: NDArray[Any], decoder: str, size: tuple[int, int]) -> Detections:
    if decoder == "yolov8":
        boxes, p = one[:4].T, one[4:].T
    else:
        boxes = _grid(one[:, :4], size) if decoder == "yolox" else one[:, :4]
        p = one[:, 4:5] * one[:, 5:]
    found = _ordered(Detections(_corners(boxes), p.max(1), p.argmax(1)))
    return _ordered(apart(found.some(np.arange(min(len(found.scores), _CANDIDATES)))))


def _grid(boxes: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Of YOLOX: offsets in cells and logarithms of sizes, to centers and sizes in pixels."""
    places, strides = [], []
    for stride in _STRIDES:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        y, x = np.mgrid[0:rows, 0:columns]
        places.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full((rows * columns, 1), stride))
    cell, step = np.concatenate(places), np.concatenate(strides)
    if len(cell) != len(boxes):
        raise InputError(
            f"yolox expects {len(cell)} boxes for images of {size[0]} x {size[1]} pixels, got "
            f"{len(boxes)}: state another --decoder, or the size"
        )
    grown = np.exp(np.minimum(boxes[:, 2:], _GROWN))
    return np.concatenate([(boxes[:, :2] + cell) * step, grown * step], 1)


def _corners(boxes: NDArray[Any]) -> NDArray[Any]:
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([center - half, center + half], 1)


def _ordered(found: Detections) -> Detections:
    order = np.argsort(-found.scores, kind="stable")
    return found.some(order[found.scores[order] > _LEAST])


def apart(found: Detections) -> Detections:
    """Without boxes that overlap a likelier one of their class."""
    left = np.ones(len(found.scores), bool)
    kept: list[int] = []
    for i in range(len(left)):
        if not left[i]:
            continue
        kept.append(i)
        if len(kept) == _MOST:
            break
        rest = np.flatnonzero(left & (found.classes == found.classes[i]))
        rest = rest[rest > i]
        left[rest[overlaps(found.boxes[i : i + 1], found.boxes[rest])[0] > _OVERLAP]] = False
    return found.some(np.array(kept, np.int64))


def overlaps(
    a: NDArray[Any], b: NDArray[Any], crowd: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Intersection over union, [len(a), len(b)]; over the area of `a` alone where b is a crowd."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    mine = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(1)[:, None]
    theirs = np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1)[None, :]
    union = mine + theirs - shared
    if crowd is not None:
        union = np.where(crowd[None, :], mine, union)
    return np.asarray(shared / np.maximum(union, 1e-12), np.float64)
