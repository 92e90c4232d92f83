"""Scores against hand-worked cases, scipy, and average precision written down step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sprue.data.boxes import Truth
from sprue.data.labelled import Answer
from sprue.errors import InputError
from sprue.models import nets
from sprue.proof import scores
from sprue.proof.scores import answers, decoding, detection, vectors
from sprue.proof.scores.classes import MacroF1, Top
from sprue.proof.scores.tags import TagF1, entities

EVERY = np.arange(4)


def test_top_k_and_macro_f1() -> None:
    logits = np.array([[3.0, 2, 1], [1, 3, 2], [2, 1, 3], [3, 1, 2]])
    truth = [0, 2, 2, 2]
    assert Top(1).value(Top(1).read(logits, truth), EVERY) == 0.5
    assert Top(2).value(Top(2).read(logits, truth), EVERY) == 1.0
    # class 0: given twice, true once, hit once: 2/3; class 1: given once, never true: 0;
    # class 2: given once, true three times, hit once: 1/2
    metric = MacroF1()
    assert metric.value(metric.read(logits, truth), EVERY) == pytest.approx((2 / 3 + 0 + 0.5) / 3)
    with pytest.raises(InputError, match="label is number 3, the network tells only 3"):
        Top(1).read(logits, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-A I-A O B-B", [("A", 0, 1), ("B", 3, 3)]),
        ("I-A I-A I-B", [("A", 0, 1), ("B", 2, 2)]),
        ("B-A B-A O", [("A", 0, 0), ("A", 1, 1)]),
        ("B-A I-B", [("A", 0, 0), ("B", 1, 1)]),
        ("S-A B-A E-A O", [("A", 0, 0), ("A", 1, 2)]),
        ("O O", []),
    ],
)
def test_entities(tags: str, expected: list[Any]) -> None:
    assert list(entities(tags.split())) == expected


def test_f1_over_entities_leaves_out_what_is_not_scored() -> None:
    classes = ("O", "B-A", "I-A")
    logits = np.eye(3)[np.array([[1, 2, 2, 0], [0, 1, 0, 0]])]
    truth = [[1, 2, -100, 0], [0, 0, 1, 0]]
    metric = TagF1(classes)
    got = metric.read(logits, truth)
    assert got.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert metric.value(got, np.array([0, 1])) == 0.5
    plain = TagF1(None).read(logits, truth)  # without names: tags other than the first
    assert plain.tolist() == [[2, 2, 2], [0, 1, 1]]


def test_answers_as_squad_scores_them() -> None:
    assert answers.exact("The Cat!", "cat") == 1.0
    assert answers.overlap("a black cat sat", "the cat") == pytest.approx(2 * 1 / (3 + 1))
    context = "Ada wrote it in 1843"
    words = [(-1, -1), (0, 3), (4, 9), (10, 12), (13, 15), (16, 20)]
    truth = Answer(context, ("1843", "in 1843"), np.array(words))
    logits = np.zeros((1, 6, 2))
    logits[0, 0] = 9  # not of the context
    logits[0, 4, 0], logits[0, 5, 1] = 5, 5
    logits[0, 5, 0], logits[0, 1, 1] = 4, 8  # an end before its start is no answer
    assert answers.spoken(logits[0], truth) == "in 1843"
    f1, exact = answers.metrics()
    assert f1.read(logits, [truth])[0] == exact.read(logits, [truth])[0] == 1.0
    nothing = Answer(context, (), np.array(words))
    assert exact.read(logits, [nothing])[0] == 1.0  # the special token is likelier than any span
    assert exact.read(logits * np.array([[[0.1]], *[[[1.0]]] * 5]).reshape(1, 6, 1), [nothing]) == 0


def test_correlations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(40, 5))
    truth = rng.normal(size=20).round(1).tolist()
    metric = vectors.Spearman()
    cosine = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    expected = stats.spearmanr(cosine, truth).statistic
    assert metric.value(metric.read(pairs, truth), np.arange(20)) == pytest.approx(expected)
    ranking = vectors.Ranking(pairs)
    other = pairs + rng.normal(size=pairs.shape)
    unit, odd = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (pairs, other))
    rest = np.arange(40) != 7
    expected = stats.spearmanr((unit @ unit[7])[rest], (odd @ odd[7])[rest]).statistic
    assert ranking.read(other, None)[7] == pytest.approx(expected)
    assert ranking.read(3 * pairs, None) == pytest.approx(1.0)


def test_nearest_neighbors() -> None:
    v = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    nearest = vectors.Nearest()
    assert nearest.read(v, [5, 5, 7, 8]).tolist() == [1, 1, 0, 0]
    shared = vectors.Neighbors(v)
    assert shared.read(v, None).tolist() == [1.0] * 4


def test_means_have_the_interval_of_the_delta_method() -> None:
    """Against a bootstrap of the same ratio."""
    rng = np.random.default_rng(1)
    a = (rng.random(400) < 0.8).astype(float)
    b = np.where(rng.random(400) < 0.05, 1 - a, a)
    kept = scores.paired(Top(1), a, b, seed=0)
    drawn = [b[i].mean() / a[i].mean() for i in rng.integers(0, 400, (4000, 400))]
    assert kept.kept.value == pytest.approx(b.mean() / a.mean())
    assert kept.kept.high - kept.kept.value == pytest.approx(1.96 * np.std(drawn), rel=0.05)
    assert kept.kept.low < kept.at_least < kept.kept.value


def test_nothing_lost_is_all_kept() -> None:
    rng = np.random.default_rng(2)
    logits, truth = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
    for metric in (Top(1), MacroF1()):
        got = metric.read(logits, truth)
        kept = scores.paired(metric, got, got, seed=0)
        assert (kept.kept.low, kept.kept.value, kept.kept.high, kept.at_least) == (1, 1, 1, 1)


def test_labels_that_are_of_another_model() -> None:
    logits = np.eye(3)[[0, 0, 0]]
    with pytest.raises(InputError, match="labels do not match"):
        scores.paired(Top(1), *[Top(1).read(logits, [1, 2, 1])] * 2, seed=0)
    with pytest.raises(InputError, match="at least 2 examples"):
        scores.paired(Top(1), np.ones(1), np.ones(1), seed=0)


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    truth, a, b = rng.integers(0, 3, 60), rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    metric = MacroF1()
    got = metric.read(a, truth), metric.read(b, truth)
    one, two, other = (scores.paired(metric, *got, seed=s) for s in (0, 0, 1))
    assert one == two
    assert one != other


# Detection.


def scene(seed: int, images: int = 6, classes: int = 3) -> tuple[list[Any], list[Any]]:
    """What is true and what was found, some of it right, in random places."""
    rng = np.random.default_rng(seed)
    true, found = [], []
    for _ in range(images):
        n = int(rng.integers(0, 5))
        low = rng.uniform(0, 60, (n, 2))
        boxes = np.concatenate([low, low + rng.uniform(10, 40, (n, 2))], 1).astype(np.float32)
        kinds = rng.integers(0, classes, n)
        crowd = rng.random(n) < 0.15
        true.append(Truth(boxes, kinds, crowd, (100, 100)))
        near = np.concatenate([boxes + rng.normal(0, 4, boxes.shape), boxes + 30])
        kind = np.concatenate([kinds, rng.integers(0, classes, n)])
        score = rng.random(2 * n)
        order = np.argsort(-score)
        found.append(detection.Detections(near[order], score[order], kind[order]))
    return true, found


def average_precision(true: list[Any], found: list[Any], least: float, classes: int) -> float:
    """COCO's definition, one detection after the other."""
    values = []
    for c in range(classes):
        total = sum(int(((t.classes == c) & ~t.crowd).sum()) for t in true)
        if not total:
            continue
        marks = []
        for t, f in zip(true, found, strict=True):
            boxes, crowd = t.boxes[t.classes == c], t.crowd[t.classes == c]
            used = set()
            for box, score in zip(f.boxes[f.classes == c], f.scores[f.classes == c], strict=True):
                box = np.clip(box, 0, 100)
                best, where, ignore = least, None, False
                for j, other in enumerate(boxes):
                    w = min(box[2], other[2]) - max(box[0], other[0])
                    h = min(box[3], other[3]) - max(box[1], other[1])
                    inner = max(w, 0) * max(h, 0)
                    mine = (box[2] - box[0]) * (box[3] - box[1])
                    area = (other[2] - other[0]) * (other[3] - other[1])
                    share = inner / (mine if crowd[j] else mine + area - inner)
                    if crowd[j]:
                        ignore = ignore or share >= least
                    elif j not in used and share >= best:
                        best, where = share, j
                if where is not None:
                    used.add(where)
                marks.append((score, where is not None, where is None and ignore))
        marks.sort(key=lambda m: -m[0])
        hits = misses = 0
        curve = []
        for _, hit, ignored in marks:
            hits, misses = hits + hit, misses + (not hit and not ignored)
            curve.append((hits / total, hits / max(hits + misses, 1)))
        points = [
            max((p for r, p in curve if r >= at - 1e-12), default=0.0)
            for at in np.linspace(0, 1, 101)
        ]
        values.append(sum(points) / 101)
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(6))
def test_map_is_that_of_the_definition(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    true, found = scene(seed)
    monkeypatch.setattr(detection, "decode", lambda outputs, decoder, size: found)
    for count, metric in (
        (1, detection.MeanAveragePrecision("yolox", (100, 100), 1)),
        (10, detection.MeanAveragePrecision("yolox", (100, 100))),
    ):
        got = metric.read(np.zeros(0), true)
        expected = np.mean(
            [average_precision(true, found, t, 3) for t in detection.THRESHOLDS[:count]]
        )
        assert metric.value(got, np.arange(len(true))) == pytest.approx(expected, abs=1e-9)
        # an image that is drawn twice is as good as two that are alike
        chosen = np.array([0, 1, 1, 2, 3, 4, 5])
        twice = [true[i] for i in chosen], [found[i] for i in chosen]
        monkeypatch.setattr(detection, "decode", lambda o, d, s, many=twice[1]: many)
        again = metric.read(np.zeros(0), twice[0])
        drawn = metric.value(got, chosen)
        assert drawn == pytest.approx(metric.value(again, np.arange(7)), abs=0.02)
        monkeypatch.setattr(detection, "decode", lambda outputs, decoder, size: found)


def test_overlapping_boxes_of_a_class_leave_the_likeliest() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [50, 50, 60, 60.0]])
    found = decoding.Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0]))
    assert decoding.apart(found).scores.tolist() == [0.9, 0.7, 0.6]


def test_every_decoder_finds_the_same_box() -> None:
    """A box from (8, 16) to (40, 48) of class 1 of 2 in an image of 64 x 64."""
    size, cells = (64, 64), 64 + 16 + 4
    cell = 4 * 8 + 3  # of stride 8: column 3, row 4, whose corner is (24, 32)
    yolox = np.zeros((1, cells, 7))
    yolox[0, cell] = [0, 0, math.log(4), math.log(4), 0.9, 0.1, 0.8]
    yolov5 = np.zeros((1, 3 * cells, 7))
    yolov5[0, 5] = [24, 32, 32, 32, 0.9, 0.1, 0.8]
    yolov8 = np.zeros((1, 6, cells))
    yolov8[0, :, 5] = [24, 32, 32, 32, 0.1, 0.72]
    detr = np.zeros((1, 2, 7))
    detr[0, 0] = [24 / 64, 0.5, 0.5, 0.5, -9, math.log(0.72), math.log(0.28)]
    detr[0, 1] = [0.5, 0.5, 0.5, 0.5, -9, -9, 9]
    given = {"yolox": yolox, "yolov5": yolov5, "yolov8": yolov8, "detr": detr}
    for decoder, outputs in given.items():
        (found,) = decoding.decode(outputs, decoder, size)
        assert found.boxes[0] == pytest.approx([8, 16, 40, 48])
        assert (found.classes[0], len(found.classes)) == (1, 1)
        assert found.scores[0] == pytest.approx(0.72, abs=1e-3)


def test_without_truth_the_original_is_true() -> None:
    logits = np.random.default_rng(0).normal(size=(8, 3))
    (metric,) = scores.metrics_for(nets.IMAGES, None, original=logits)
    assert metric.value(metric.read(logits, None), np.arange(8)) == 1.0
    assert metric.value(metric.read(-logits, None), np.arange(8)) == 0.0
    with pytest.raises(InputError, match="cannot be scored without"):
        scores.metrics_for(nets.ANSWERS, None, original=logits)


@pytest.mark.parametrize(
    ("task", "truth", "names"),
    [
        (nets.IMAGES, [0, 1], ["top-1", "top-5", "top-1 agreement"]),
        (nets.TEXTS, [0, 1], ["accuracy", "macro F1", "top-1 agreement"]),
        (nets.TOKENS, [[0], [1]], ["F1"]),
        (nets.ANSWERS, [None, None], ["F1", "exact match"]),
        (nets.BOXES, [None, None], ["mAP50", "mAP50-95"]),
        (nets.SENTENCES, [0, 0], ["nearest neighbor", "ranking of neighbors", "shared neighbors"]),
        (nets.SENTENCES, [0.5, 1.0], ["Spearman", "ranking of neighbors", "shared neighbors"]),
        (nets.SENTENCES, None, ["ranking of neighbors", "shared neighbors"]),
    ],
)
def test_what_a_task_is_scored_by(task: str, truth: Any, names: list[str]) -> None:
    found = scores.metrics_for(task, truth, original=np.zeros((2, 10)), size=(64, 64))
    assert [metric.name for metric in found] == names
