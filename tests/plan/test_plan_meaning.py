"""How far answers lie apart, by what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sprue.models import nets
from sprue.plan.meaning import answers_of, loss_of, soft_classes, vectors_apart

GENERATOR = torch.Generator().manual_seed(0)


def net(task: str, decoder: str | None = None) -> nets.Net:
    return nets.Net(nn.Identity(), task, ("x",), (torch.zeros(1),), Path(), decoder=decoder)


SHAPES = [
    (nets.IMAGES, None, (4, 5)),
    (nets.TEXTS, None, (4, 5)),
    (nets.TOKENS, None, (4, 7, 5)),
    (nets.ANSWERS, None, (4, 7, 2)),
    (nets.SENTENCES, None, (4, 9)),
    (nets.BOXES, "yolox", (2, 21, 8)),
    (nets.BOXES, "yolov5", (2, 63, 8)),
    (nets.BOXES, "yolov8", (2, 7, 21)),
    (nets.BOXES, "detr", (2, 6, 8)),
]


@pytest.mark.parametrize(("task", "decoder", "shape"), SHAPES)
def test_the_same_is_not_apart_and_more_is_further(
    task: str, decoder: str | None, shape: tuple[int, ...]
) -> None:
    a = torch.rand(shape, generator=GENERATOR)
    noise = torch.randn(shape, generator=GENERATOR)
    answers, loss = answers_of(net(task, decoder)), loss_of(net(task, decoder))
    for measure in (answers.apart, lambda a, b: float(loss(a, b))):
        near, far = (measure(a, a + s * noise) for s in (0.01, 0.1))
        assert measure(a, a) == pytest.approx(0, abs=1e-6)
        assert 0 < near < far
    b = a.clone().requires_grad_(True)
    pull = answers.pull(b, torch.Generator().manual_seed(1))
    pull.backward()  # type: ignore[no-untyped-call]
    assert b.grad is not None
    assert b.grad.abs().sum() > 0


def test_anchors_that_see_nothing_hardly_count() -> None:
    a = torch.zeros(1, 2, 7)
    a[0, 0, 4:6] = 1.0  # an object of the first class
    answers = answers_of(net(nets.BOXES, "yolox"))
    seen, unseen = a.clone(), a.clone()
    seen[0, 0, :4] += 0.1
    unseen[0, 1, :4] += 0.1
    assert answers.apart(a, seen) > 50 * answers.apart(a, unseen)


def test_soft_classes_are_kl_at_a_temperature() -> None:
    a, b = torch.randn(2, 6, 4, generator=GENERATOR)
    p, q = (x.double() / 2 for x in (a, b))
    kl = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1).mean()
    assert float(soft_classes(a, b)) == pytest.approx(4 * float(kl), rel=1e-5)


def test_lengths_of_vectors_do_not_count() -> None:
    a = torch.randn(5, 3, generator=GENERATOR)
    assert float(vectors_apart(a, 3 * a)) == pytest.approx(0, abs=1e-6)
