"""A sketch of what a teacher says: the loss against its formula, and what is remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sprue.plan.distill import mixed_loss
from sprue.plan.sketch import Remembered, Sketch, sketched_loss
from sprue.plan.teach import UNKNOWN


def logits(seed: int, rows: int = 7, classes: int = 12) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, classes, generator=g)


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_likeliest_are_kept_and_some_of_the_rest_are_drawn() -> None:
    some = logits(0)
    found = Sketch.of(some, drawing(), 3, 4)
    assert found.classes.shape == found.logs.shape == (7, 7)
    logs = some.log_softmax(-1)
    assert torch.equal(found.classes[:, :3].long(), logs.topk(3).indices)
    assert torch.allclose(found.logs.float(), logs.gather(-1, found.classes.long()), atol=1e-2)
    for row in found.classes.tolist():
        assert not set(row[:3]) & set(row[3:])
    assert found.nbytes == 7 * 7 * 6
    assert torch.allclose(found.weights().sum(-1), torch.ones(7))


def test_a_sketch_is_in_the_mean_what_it_is_of() -> None:
    some = logits(0, rows=1)
    many = Sketch.of(some.expand(40_000, -1), drawing(), 2, 3)
    mean = torch.zeros(12).scatter_add_(0, many.classes.flatten().long(), many.weights().flatten())
    assert torch.allclose(mean / 40_000, some[0].softmax(-1), atol=2e-3)


@pytest.mark.parametrize("trusted", [0.0, 0.5, 1.0])
def test_loss_and_gradient_are_in_the_mean_the_whole_ones(trusted: float) -> None:
    teacher, student = logits(0), logits(1)
    true = torch.arange(7) if trusted else None
    many = 20_000
    said = Sketch.of(teacher.repeat(many, 1), drawing(), 4, 3)
    wide = student.repeat(many, 1).requires_grad_()
    mine = sketched_loss(wide, said, None if true is None else true.repeat(many), trusted)
    student.requires_grad_()
    theirs = mixed_loss(student, teacher, true, trusted)
    assert float(mine.detach()) == pytest.approx(float(theirs.detach()), abs=3e-3)
    a = torch.autograd.grad(mine, wide)[0].view(many, 7, 12).sum(0)
    b = torch.autograd.grad(theirs, student)[0]
    assert torch.allclose(a, b, atol=5e-4)


@pytest.mark.parametrize("trusted", [0.0, 0.5])
def test_the_gradient_is_that_of_what_is_kept(trusted: float) -> None:
    said, student = Sketch.of(logits(0), drawing(), 4, 3), logits(1).requires_grad_()
    true = torch.arange(7) if trusted else None
    (mine,) = torch.autograd.grad(sketched_loss(student, said, true, trusted), student)
    logs = student.double().log_softmax(-1)
    expected = -(1 - trusted) * (said.weights() * logs.gather(-1, said.classes.long())).sum(-1)
    if true is not None:
        expected = expected - trusted * logs[torch.arange(7), true]
    (theirs,) = torch.autograd.grad(expected.mean(), student)
    assert torch.allclose(mine, theirs.float(), atol=1e-6)


@pytest.mark.parametrize("trusted", [0.0, 0.5])
def test_with_all_classes_kept_it_is_the_whole_loss(trusted: float) -> None:
    teacher, student = logits(0), logits(1).requires_grad_()
    true = torch.arange(7) if trusted else None
    gradients = []
    for loss in (
        sketched_loss(student, Sketch.of(teacher, drawing(), 99), true, trusted),
        mixed_loss(student, teacher, true, trusted),
    ):
        gradients.append(torch.autograd.grad(loss, student)[0])
    assert torch.allclose(gradients[0], gradients[1], atol=1e-3)  # half precision


def test_a_teacher_that_is_sure_gives_finite_gradients() -> None:
    teacher = torch.zeros(2, 9)
    teacher[:, 3] = 200.0
    teacher[1, 4:] = -torch.inf
    student = torch.zeros(2, 9)
    student[:, 3] = -200.0
    student.requires_grad_()
    loss = sketched_loss(student, Sketch.of(teacher, drawing(), 4, 4), None, 0.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


class Teacher:
    """Says that after a token the same comes again, and counts the texts that it is asked of."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, texts: Tensor) -> Tensor:
        self.asked += len(texts)
        return 5.0 * torch.nn.functional.one_hot(texts[:, :-1], 10).float()


def test_every_text_is_asked_for_once() -> None:
    teacher = Teacher()
    some = Remembered(teacher, kept=2, drawn=0)
    texts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    first = some(texts)
    again = some(texts.flip(0))
    assert teacher.asked == 2
    assert first.classes.shape == (2, 2, 2)
    assert torch.equal(first.classes[..., 0].long(), texts[:, :-1])
    assert torch.equal(first.logs, again.logs.flip(0))
    assert some.nbytes == first.nbytes


def test_what_was_learned_is_not_asked_for() -> None:
    teacher = Teacher()
    some = Remembered(teacher, kept=2, drawn=0)
    texts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    some.learn(texts, Sketch.of(torch.zeros(2, 2, 10), drawing(), 2, 0))
    assert float(some(texts).logs.float().exp().max()) == pytest.approx(0.1, rel=1e-2)
    assert teacher.asked == 0


def test_memory_that_is_full_is_left_alone() -> None:
    teacher = Teacher()
    some = Remembered(teacher, kept=2, drawn=0, most=2 * 2 * 6)
    texts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    a, b = some(texts), some(texts)
    assert some.nbytes == 24
    assert teacher.asked == 3  # the second one twice
    assert torch.equal(a.classes, b.classes)
    assert torch.equal(a.logs, b.logs)


@pytest.mark.parametrize("loss", [sketched_loss, mixed_loss])
def test_rows_whose_class_is_not_known_are_all_distance(loss: Any) -> None:
    student, teacher = logits(1).requires_grad_(), logits(2)
    true = torch.arange(7)
    true[[1, 4]] = UNKNOWN
    aim = Sketch.of(teacher, drawing(), 4, 4) if loss is sketched_loss else teacher
    found = loss(student, aim, true, 0.3)
    parts = []
    for row in range(7):
        one = aim[row : row + 1]
        known = None if int(true[row]) == UNKNOWN else true[row : row + 1]
        parts.append(loss(student[row : row + 1], one, known, 0.3))
    assert float(found.detach()) == pytest.approx(float(sum(parts).detach()) / 7, rel=1e-5)
    a = torch.autograd.grad(found, student)[0]
    b = torch.autograd.grad(sum(parts) / 7, student)[0]
    assert torch.allclose(a, b, atol=1e-7)
