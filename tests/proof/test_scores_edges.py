"""Scores where data is small, models are damaged, and outputs are of another decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sprue.data.labelled import Answer
from sprue.errors import InputError
from sprue.models import nets
from sprue.proof import scores
from sprue.proof.scores import answers, decoding
from sprue.proof.scores.classes import MacroF1, Top
from sprue.proof.scores.tags import TagF1


@pytest.mark.parametrize(
    ("n", "right", "kept", "churn"),
    [(64, 0.9, 0.99, 0.002), (200, 0.7, 0.97, 0.002), (1000, 0.9, 0.99, 0.01)],
)
def test_a_bound_is_crossed_once_in_twenty_at_most(
    n: int, right: float, kept: float, churn: float
) -> None:
    """Right before and after, lost, gained, never: 2,000 draws, give or take 1%."""
    rng = np.random.default_rng(n)
    lost = right * (1 - kept) + churn
    odds = [right - lost, lost, churn, 1 - right - churn]
    crossed = 0
    for _ in range(2000):
        drawn = rng.choice(4, n, p=odds)
        a, b = (drawn < 2).astype(float), np.isin(drawn, (0, 2)).astype(float)
        crossed += scores.paired(Top(1), a, b, seed=0).at_least > kept
    assert crossed / 2000 <= 0.06


@pytest.mark.parametrize("metric", [Top(1), MacroF1()])
def test_few_examples_without_a_difference_prove_little(metric: Any) -> None:
    rng = np.random.default_rng(0)
    truth, logits = rng.integers(0, 3, 50), rng.normal(size=(50, 3))
    a, b = metric.read(logits, truth), metric.read(2 * logits, truth)
    kept = scores.paired(metric, a, b, seed=0)
    assert kept.kept.value == 1
    assert kept.kept.low <= kept.at_least < 0.97
    same = scores.paired(metric, a, b, seed=0, same=True)
    assert (same.kept.low, same.kept.value, same.kept.high, same.at_least) == (1, 1, 1, 1)


def test_what_is_not_finite_is_never_right() -> None:
    broken = np.full((3, 4), np.nan)
    assert Top(1).read(broken, [0, 0, 1]).tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="original gives outputs that are not finite"):
        scores.metrics_for(nets.IMAGES, [0, 0, 1], original=broken)
    with pytest.raises(InputError, match="a label is number -1"):
        Top(1).read(np.eye(3), [0, -1, 2])


def test_the_truth_of_a_question_does_not_tell_its_answer() -> None:
    """The first token is likeliest: no answer, as soon as any question has none."""
    context = "Ada wrote it in 1843"
    words = np.array([(-1, -1), (0, 3), (4, 9), (10, 12), (13, 15), (16, 20)])
    logits = np.zeros((6, 2))
    logits[0], logits[5] = 9, 3
    some, none = Answer(context, ("1843",), words), Answer(context, (), words)
    _, exact = answers.metrics()
    assert exact.read(np.stack([logits]), [some]).tolist() == [1]
    assert exact.read(np.stack([logits, logits]), [some, none]).tolist() == [0, 1]


def test_tags_without_o_all_count() -> None:
    logits = np.eye(2)[np.array([[0, 0, 1]])]
    assert TagF1(("NOUN", "VERB")).read(logits, [[0, 1, 1]]).tolist() == [[2, 3, 3]]
    with pytest.raises(InputError, match="4 tags for the 3 tokens"):
        TagF1(None).read(logits, [[0, 1, 1, -100]])


def test_outputs_of_another_decoder_are_refused() -> None:
    with pytest.raises(InputError, match="yolox expects 84 boxes for images of 64 x 64"):
        decoding.decode(np.zeros((1, 100, 7)), "yolox", (64, 64))
    with pytest.raises(InputError, match="yolov5 reads outputs"):
        decoding.decode(np.zeros((1, 7)), "yolov5", (64, 64))
    grown = np.zeros((1, 84, 7))
    grown[0, :, 2] = 1e6
    assert len(decoding.decode(grown, "yolox", (64, 64))[0].scores) == 0
