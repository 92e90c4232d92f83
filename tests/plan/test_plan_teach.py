"""Networks that were damaged, and what they learn of the ones that they were made from."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sprue.errors import InputError
from sprue.plan.meaning import soft_classes, vectors_apart
from sprue.plan.teach import UNKNOWN, Lessons, distance, mixed, shared_features, teach


def network(seed: int = 0, width: int = 8) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        more = nn.Sequential(nn.Conv2d(width, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        head = nn.Linear(8 * 64, 4)
        head.weight.data.mul_(20.0)  # it is sure of its answers, as trained ones are
        whole = nn.Sequential(body, more, nn.Flatten(), head).train()
        for _ in range(40):  # statistics of what it reads, as trained ones have
            whole(torch.randn(64, 3, 8, 8))
        return whole.eval()


def images(count: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def damaged(original: nn.Module) -> nn.Module:
    other = copy.deepcopy(original)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.3 * parameter.std() * noise if parameter.numel() > 1 else 0
    return other


LESSONS = Lessons(soft_classes, steps=30, batch=16, mixed=True)


def test_it_comes_nearer_to_the_original() -> None:
    original = network()
    student, inputs = damaged(original), (images(),)
    before = copy.deepcopy(student.state_dict())
    state = torch.get_rng_state()
    found = teach(original, student, inputs, LESSONS)
    assert torch.equal(state, torch.get_rng_state())
    assert found.which != "start"
    assert found.after < 0.7 * found.before
    fresh = (images(64, 5),)
    assert distance(original, found.model, fresh, soft_classes) < distance(
        original, student, fresh, soft_classes
    )
    assert not found.model.training
    for name, tensor in student.state_dict().items():  # what was given stays as it was
        assert torch.equal(tensor, before[name])


def test_the_same_steps_give_the_same_bytes() -> None:
    original = network()
    student = damaged(original)
    one, two = (teach(original, student, (images(),), LESSONS).model for _ in range(2))
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_what_is_perfect_is_not_made_worse() -> None:
    original = network()
    found = teach(original, copy.deepcopy(original), (images(),), LESSONS)
    assert (found.which, found.after) == ("start", 0.0)


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sprue.plan.teach._SAVED", 0.0)  # after every step
    original = network()
    student = damaged(original)
    lessons = Lessons(soft_classes, steps=12, batch=8, state=tmp_path / "state")
    whole = teach(original, student, (images(),), Lessons(soft_classes, steps=12, batch=8)).model

    class StoppedError(Exception):
        pass

    def stop(done: float) -> None:
        if done >= 0.5:
            raise StoppedError

    with pytest.raises(StoppedError):
        teach(original, student, (images(),), lessons, stop)
    seen: list[float] = []
    resumed = teach(original, student, (images(),), lessons, seen.append)
    assert seen[0] == pytest.approx(7 / 12)
    for a, b in zip(whole.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_clock_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr("sprue.plan.teach.time.monotonic", lambda: float(next(ticks)))
    original = network()
    found = teach(original, damaged(original), (images(),), Lessons(soft_classes, seconds=10))
    assert 0 < found.steps <= 10


def test_encoders_without_batch_norms_learn_too() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 5))
    student = damaged(original)
    inputs = (torch.randn(64, 6, generator=torch.Generator().manual_seed(2)),)
    found = teach(original, student, inputs, Lessons(vectors_apart, steps=60, batch=32))
    assert found.after < found.before


def test_nothing_to_learn_from() -> None:
    original = network()
    with pytest.raises(InputError, match="at least 4 examples"):
        teach(original, original, (images(3),), LESSONS)
    for seconds, steps in ((None, None), (1.0, 1), (0.0, None), (None, -1), (float("nan"), None)):
        with pytest.raises(InputError, match="expected seconds or steps"):
            Lessons(soft_classes, seconds, steps)


def test_training_that_diverges_is_told() -> None:
    original = network()
    spoiled = copy.deepcopy(original)
    spoiled.get_parameter("3.bias").data.fill_(torch.nan)
    with pytest.raises(InputError, match="training diverged in step 0"):
        teach(original, spoiled, (images(),), LESSONS)


def test_truth_makes_it_better_than_the_original() -> None:
    """A linear map tells two classes apart; the original errs in a third of the examples."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(400, 6, generator=generator)
    truth = (x[:, 0] > 0).long()
    original = nn.Linear(6, 2).eval()
    with torch.no_grad():
        original.weight.copy_(0.04 * torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1.5, 0, 0, 0, 0]]))
        original.bias.zero_()
    right = {}
    for name, known in (("none", None), ("all", truth), ("unknown", torch.full((400,), UNKNOWN))):
        lessons = Lessons(soft_classes, steps=300, batch=32, truth=known)
        model = teach(original, damaged(original), (x,), lessons).model
        right[name] = float((model(x).argmax(1) == truth).float().mean())
    assert right["all"] > right["none"] + 0.1
    assert right["unknown"] == right["none"]
    with pytest.raises(InputError, match="what is true of 400 examples, got 3"):
        teach(original, original, (x,), Lessons(soft_classes, steps=1, truth=truth[:3]))


def test_truth_of_a_mixture_is_mixed() -> None:
    """Every image is one number, so that what it was mixed of can be told."""
    values = torch.arange(8.0)
    x = values[:, None, None, None].expand(8, 1, 8, 8)
    shares = set()
    for seed in range(8):
        images, other, share = mixed(x, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(images[:, 0, 0, 0], (1 - share) * values + share * values[other])
        shares.add(share)
    assert len(shares) > 2


def test_features_are_those_of_one_shape() -> None:
    assert shared_features(network(), network(), (images(2),)) == ["0", "1"]
    assert shared_features(network(), network(width=6), (images(2),)) == ["1"]


def test_mixing_keeps_shape_and_seed() -> None:
    x = images(8)
    one, two, other = (mixed(x, torch.Generator().manual_seed(s))[0] for s in (0, 0, 1))
    assert one.shape == x.shape
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))  # nothing that no image holds
    assert (one.amin((0, 2, 3)) >= low).all()
    assert (one.amax((0, 2, 3)) <= high).all()
