"""Distillation: the loss against its formula, learning, resuming, and the same bytes twice."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.plan.distill import Distillation, Schedule, divergence, mixed_loss
from sprue.plan.student import Windows


def classifier(seed: int) -> nn.Module:
    """Two layers, 6 inputs, 4 classes; no model of `transformers`."""
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    return model


def batches(step: int) -> Sequence[Tensor]:
    g = torch.Generator().manual_seed(step)
    return [torch.randn(16, 6, generator=g) for _ in range(2)]


def work(student: nn.Module, steps: int = 60) -> Distillation[Tensor]:
    teacher, named = classifier(0), dict(student.named_parameters())
    return Distillation(teacher, student, named, batches, Schedule(steps=steps, rate=0.02))


def finish(some: Distillation[Tensor]) -> Distillation[Tensor]:
    while some.done < 1:
        some.advance()
    return some


def test_divergence_against_the_formula() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 5, generator=g), torch.randn(2, 3, 5, generator=g)
    p, q = a.double().softmax(-1), b.double().softmax(-1)
    expected = float((p * (p / q).log()).sum(-1).mean())
    assert float(divergence(a, b)) == pytest.approx(expected, rel=1e-5)
    assert float(divergence(a, a)) == pytest.approx(0, abs=1e-6)


def test_a_classifier_learns() -> None:
    done = finish(work(classifier(1)))
    assert done.step == len(done.losses) == 60
    assert sum(done.losses[-5:]) < 0.3 * sum(done.losses[:5])


def test_the_same_bytes_twice_and_no_global_generator() -> None:
    both = [work(classifier(1), 5) for _ in range(2)]
    before = torch.random.get_rng_state()
    a, b = (finish(one).state()[1] for one in both)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(before, torch.random.get_rng_state())


def test_resumed_ends_with_the_same_bytes() -> None:
    whole = finish(work(classifier(1), 8))
    first = work(classifier(1), 8)
    for _ in range(3):
        first.advance()
    told, tensors = copy.deepcopy(first.state())
    second = work(classifier(5), 8)
    second.resume(told, tensors)
    finish(second)
    assert second.losses == whole.losses
    for name, tensor in whole.state()[1].items():
        assert torch.equal(tensor, second.state()[1][name]), name


def test_gradients_of_parts_are_those_of_the_whole() -> None:
    a, b = work(classifier(1), 1), work(classifier(1), 1)
    whole = torch.cat([*batches(0)])
    b.batches = lambda step: [whole]
    assert a.advance() == pytest.approx(b.advance(), rel=1e-5)


def test_only_what_is_named_learns() -> None:
    student = classifier(1)
    before = copy.deepcopy(student.state_dict())
    named = {n: p for n, p in student.named_parameters() if n.startswith("2.")}
    finish(Distillation(classifier(0), student, named, batches, Schedule(steps=3)))
    changed = {n for n, t in student.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"2.weight", "2.bias"}


def test_the_clock_ends_it() -> None:
    some = work(classifier(1))
    some.schedule = Schedule(seconds=1e-6)
    assert finish(some).step == 1


def test_a_loss_that_is_not_finite_is_refused() -> None:
    student = classifier(1)
    with torch.no_grad():
        student[2].weight.fill_(float("nan"))  # type: ignore[operator, index, union-attr]
    with pytest.raises(InputError, match="diverged in step 0"):
        work(student).advance()


@pytest.mark.parametrize(
    "given", [{}, {"steps": 1, "seconds": 1.0}, {"steps": 0}, {"seconds": -1.0}]
)
def test_schedules_that_make_no_sense(given: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected a number of steps or of seconds"):
        Schedule(**given)  # type: ignore[arg-type]


def test_the_rate_warms_up_and_ends_at_nothing() -> None:
    schedule = Schedule(steps=100, rate=1.0)
    rates = [schedule.rate_at(done / 100) for done in range(101)]
    assert max(rates) == rates[5] == pytest.approx(1.0)
    assert rates[0] < 0.05
    assert rates[100] == pytest.approx(0, abs=1e-9)


def test_an_epoch_sees_every_window_once() -> None:
    ids = torch.arange(12).reshape(6, 2)
    windows = Windows(ids, seed=0, tokens=4, at_once=1)
    first = torch.cat([part for step in range(3) for part in windows(step)])
    second = torch.cat([part for step in range(3, 6) for part in windows(step)])
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist()) == ids[:, 0].tolist()
    assert not torch.equal(first, second)
    assert all(len(part) == 1 for part in windows(0))


@pytest.mark.parametrize("trusted", [0.0, 0.3, 1.0])
def test_the_mixed_loss_and_its_gradient_against_the_formula(trusted: float) -> None:
    g = torch.Generator().manual_seed(1)
    teacher, true = torch.randn(7, 5, generator=g), torch.randint(5, (7,), generator=g)
    student = torch.randn(7, 5, generator=g).requires_grad_()
    q = student.log_softmax(-1)
    expected = (1 - trusted) * divergence(teacher, student)
    expected = expected - trusted * q.gather(-1, true[:, None]).mean()
    (slope,) = torch.autograd.grad(3 * expected, student)
    found = mixed_loss(student, teacher, true, trusted)
    (mine,) = torch.autograd.grad(3 * found, student)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mine, slope, atol=1e-6, rtol=1e-5)


def test_what_the_teacher_rules_out_adds_nothing() -> None:
    teacher = torch.tensor([[0.0, 0.0, -torch.inf]])
    student = torch.zeros(1, 3, requires_grad=True)
    found = mixed_loss(student, teacher, None, 0.0)
    (slope,) = torch.autograd.grad(found, student)
    assert float(found.detach()) == pytest.approx(float(torch.tensor(1.5).log()), rel=1e-5)
    torch.testing.assert_close(slope, torch.tensor([[-1 / 6, -1 / 6, 1 / 3]]))


def test_the_truth_teaches_where_the_teacher_is_wrong() -> None:
    """With it, and a teacher that knows nothing, a student learns what is true."""
    student = classifier(3)
    named = dict(student.named_parameters())
    knows = classifier(0)
    taught = Distillation(
        lambda x: torch.zeros(len(x), 4),
        student,
        named,
        batches,
        Schedule(steps=150, rate=0.02),
        truth=lambda x: knows(x).argmax(-1),
        trusted=0.9,
    )
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(99))

    def right() -> float:
        return float((student(x).argmax(-1) == knows(x).argmax(-1)).float().mean())

    before = right()
    finish(taught)
    assert right() > max(0.7, before + 0.2)
