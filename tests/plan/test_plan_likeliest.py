"""A teacher's likeliest classes: the loss against its formula, and what is remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sprue.plan.distill import divergence, mixed_loss
from sprue.plan.likeliest import Likeliest, Remembered, sparse_loss
from sprue.plan.teach import UNKNOWN


def logits(seed: int, rows: int = 7, classes: int = 12) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, classes, generator=g)


def as_lumped(some: Tensor, classes: Tensor) -> Tensor:
    """Probabilities of some classes, and behind them that of all others."""
    p = some.double().softmax(-1)
    kept = p.gather(-1, classes.long())
    return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1)


def test_the_likeliest_are_kept_with_their_log_probabilities() -> None:
    some = logits(0)
    found = Likeliest.of(some, 3)
    assert found.classes.shape == found.logs.shape == (7, 3)
    best = some.log_softmax(-1).topk(3)
    assert torch.equal(found.classes.long(), best.indices)
    assert torch.allclose(found.logs.float(), best.values, atol=1e-2)
    assert found.nbytes == 7 * 3 * 6


@pytest.mark.parametrize("trusted", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kept", [1, 4])
def test_the_loss_and_its_gradient_against_the_formula(kept: int, trusted: float) -> None:
    teacher, student = logits(0), logits(1).requires_grad_()
    true = torch.arange(7) if trusted else None
    said = Likeliest.of(teacher, kept)
    exact = Likeliest(said.classes, teacher.log_softmax(-1).gather(-1, said.classes.long()))
    loss = sparse_loss(student, exact, true, trusted)
    (mine,) = torch.autograd.grad(loss, student)
    p, q = as_lumped(teacher, said.classes), as_lumped(student, said.classes)
    expected = (1 - trusted) * (p * (p / q).log()).sum(-1).mean()
    if true is not None:
        expected = expected + trusted * torch.nn.functional.cross_entropy(student.double(), true)
    (theirs,) = torch.autograd.grad(expected, student)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.allclose(mine, theirs.float(), atol=1e-6)


@pytest.mark.parametrize("trusted", [0.0, 0.5])
def test_with_all_classes_kept_it_is_the_whole_loss(trusted: float) -> None:
    teacher, student = logits(0), logits(1).requires_grad_()
    true = torch.arange(7) if trusted else None
    gradients = []
    for loss in (
        sparse_loss(student, Likeliest.of(teacher, 99), true, trusted),
        mixed_loss(student, teacher, true, trusted),
    ):
        gradients.append(torch.autograd.grad(loss, student)[0])
    assert torch.allclose(*gradients, atol=1e-3)  # half precision


def test_it_is_at_most_the_whole_divergence() -> None:
    teacher, student = logits(0), logits(1)
    found = float(sparse_loss(student, Likeliest.of(teacher, 4), None, 0.0))
    assert 0 < found <= float(divergence(teacher, student))


def test_a_teacher_that_is_sure_gives_finite_gradients() -> None:
    teacher = torch.zeros(2, 9)
    teacher[:, 3] = 200.0
    teacher[1, 4:] = -torch.inf
    student = torch.zeros(2, 9)
    student[:, 3] = -200.0
    student.requires_grad_()
    loss = sparse_loss(student, Likeliest.of(teacher, 8), None, 0.0)
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
    some = Remembered(teacher, kept=2)
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
    some = Remembered(teacher, kept=2)
    texts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    some.learn(texts, Likeliest.of(torch.zeros(2, 2, 10), 2))
    assert float(some(texts).logs.float().exp().max()) == pytest.approx(0.1, rel=1e-2)
    assert teacher.asked == 0


def test_memory_that_is_full_is_left_alone() -> None:
    teacher = Teacher()
    some = Remembered(teacher, kept=2, most=2 * 2 * 6)
    texts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    a, b = some(texts), some(texts)
    assert some.nbytes == 24
    assert teacher.asked == 3  # the second one twice
    assert torch.equal(a.classes, b.classes)
    assert torch.equal(a.logs, b.logs)


@pytest.mark.parametrize("loss", [sparse_loss, mixed_loss])
def test_rows_whose_class_is_not_known_are_all_distance(loss: Any) -> None:
    student, teacher = logits(1).requires_grad_(), logits(2)
    true = torch.arange(7)
    true[[1, 4]] = UNKNOWN
    aim = Likeliest.of(teacher, 4) if loss is sparse_loss else teacher
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
