"""How the answers of a network are scored, by its task, and what a result kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError
from sprue.models import nets
from sprue.proof.scores import answers
from sprue.proof.scores.classes import Agreement, MacroF1, Top
from sprue.proof.scores.detection import MeanAveragePrecision, stand_in
from sprue.proof.scores.paired import Kept, Metric, paired
from sprue.proof.scores.tags import TagF1
from sprue.proof.scores.vectors import Nearest, Neighbors, Ranking, Spearman

__all__ = ["Kept", "Metric", "metrics_for", "paired"]


def metrics_for(
    task: str,
    truth: Sequence[Any] | None,
    *,
    original: NDArray[Any],
    decoder: str | None = None,
    size: tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[Metric, ...]:
    """What a task is scored by; the first is what has to be kept.

    Args:
        task: one of `models.nets.TASKS`.
        truth: of each example; None: the original's answers count as true.
        original: its answers, [examples, ...].
        decoder: of a detector.
        size: (height, width) of a detector's input.
        classes: names of outputs, where they are known.

    Raises:
        InputError: a task that cannot be scored without truth, or outputs that are not finite.
    """
    if not np.isfinite(original).all():
        raise InputError("the original gives outputs that are not finite: its weights are damaged")
    if task == nets.BOXES:
        return _boxes(truth, original, decoder or "yolox", size or (0, 0))
    if task == nets.SENTENCES:
        return _sentences(truth, original)
    if truth is None:
        if task == nets.ANSWERS:
            raise InputError("answers cannot be scored without true ones: give data that has them")
        return (Agreement(original),)
    more = (Top(5, "top-5"),) if original.shape[-1] > 5 else ()
    found: dict[str, tuple[Metric, ...]] = {
        nets.IMAGES: (Top(1), *more, Agreement(original)),
        nets.TEXTS: (Top(1, "accuracy"), MacroF1(), Agreement(original)),
        nets.TOKENS: (TagF1(tuple(classes) if classes is not None else None),),
        nets.ANSWERS: tuple(answers.metrics()),
    }
    return found[task]


def _boxes(
    truth: Sequence[Any] | None, original: NDArray[Any], decoder: str, size: tuple[int, int]
) -> tuple[Metric, ...]:
    instead = stand_in(original, decoder, size) if truth is None else None
    return (
        MeanAveragePrecision(decoder, size, 1, "mAP50", instead),
        MeanAveragePrecision(decoder, size, 10, "mAP50-95", instead),
    )


def _sentences(truth: Sequence[Any] | None, original: NDArray[Any]) -> tuple[Metric, ...]:
    shared: tuple[Metric, ...] = (Ranking(original), Neighbors(original))
    if truth is None:
        return shared
    if any(isinstance(value, float) for value in truth):
        return (Spearman(), *shared)
    if len(np.unique(np.asarray(truth))) == len(truth):
        return shared  # no two texts have one label
    return (Nearest(), *shared)
