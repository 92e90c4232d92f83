"""Layers of a cut network, fitted to what they gave before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sprue.structure.adapt import Adapter

IMAGES = torch.randn(80, 3, 6, 6, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES[:40],), (IMAGES[40:],)]


class Net(nn.Module):
    """A norm after one convolution, a bias in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.b, self.head = nn.Conv2d(6, 8, 3), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.bn(self.a(x))))).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = Net().eval()
        nn.init.uniform_(made.bn.running_mean)
    return made


def error(a: nn.Module, b: nn.Module) -> float:
    with torch.no_grad():
        return float((a(IMAGES) - b(IMAGES)).square().mean())


def test_a_layer_that_was_spoiled_comes_back(net: Net) -> None:
    """Its weights, its bias, and, where a norm follows, the norm's mean."""
    spoiled = copy.deepcopy(net)
    with torch.no_grad():
        for module in (spoiled.a, spoiled.b):
            module.weight.mul_(0.5)
        spoiled.b.bias.add_(1)
        spoiled.bn.running_mean.add_(0.3)
    before = error(net, spoiled)
    Adapter(net, spoiled, BATCHES).run(["a", "b"])
    assert error(net, spoiled) < 1e-2 * before


def test_it_makes_up_for_what_left_before(net: Net) -> None:
    cut = copy.deepcopy(net)
    with torch.no_grad():
        cut.a.weight[2].zero_()
    before = error(net, cut)
    Adapter(net, cut, BATCHES).run(["b"])
    assert error(net, cut) < 0.5 * before


def test_layers_are_fitted_in_the_order_in_which_they_run(net: Net) -> None:
    cuts: list[dict[str, Tensor]] = []
    for names in (["a", "b", "head"], ["head", "b", "a"]):
        cut = copy.deepcopy(net)
        with torch.no_grad():
            cut.a.weight[2].zero_()
        seen = list[int]()
        Adapter(net, cut, BATCHES, progress=lambda seen=seen: seen.append(1)).run(names)
        assert len(seen) == 3
        cuts.append(cut.state_dict())
    assert all(torch.equal(x, cuts[1][name]) for name, x in cuts[0].items())


def test_the_original_stays(net: Net) -> None:
    before = copy.deepcopy(net.state_dict())
    Adapter(net, copy.deepcopy(net), BATCHES).run(["a", "b", "head"])
    assert all(torch.equal(net.state_dict()[name], x) for name, x in before.items())


class Twice(Net):
    """A norm that another convolution's outputs reach too: its mean is not free."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.a(x)) + self.bn(self.a(x.flip(3)))
        return self.head(torch.relu(self.b(torch.relu(y))).mean((2, 3)))


def test_what_runs_twice_has_no_mean_of_its_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = Twice().eval()
    cut: Any = copy.deepcopy(net)
    mean = cut.bn.running_mean.clone()
    Adapter(net, cut, BATCHES).run(["a"])
    assert torch.equal(cut.bn.running_mean, mean)


def test_outputs_that_left_are_no_target() -> None:
    """Two layers in a row, both cut: what is left of the second is fitted to what is left."""
    from sprue.structure.cut import together, without
    from sprue.structure.units import groups

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1))
        ).eval()
    leaving = together((group, [1, 3]) for group in groups(net, (IMAGES,)))
    cut = without(net, leaving)
    before = error(net, cut)
    Adapter(net, cut, BATCHES, leaving).run(["2", "4"])
    assert error(net, cut) < 0.5 * before
    with torch.no_grad():
        stay = [0, 2, 4, 5, 6, 7]
        middle = net[:3](IMAGES)[:, stay]
        away = (cut[:3](IMAGES) - middle).square().mean() / middle.var()
    assert away < 0.2
