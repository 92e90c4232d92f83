"""Structured pruning under a budget of FLOPs, on a small network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sprue.errors import BudgetError
from sprue.plan.prune import Pruner, macs

IMAGES = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES[:48],), (IMAGES[48:],)]


class Net(nn.Module):
    """Two residual blocks; in the second most of the inner channels repeat others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up1, self.down1 = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.up2, self.down2 = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down1(torch.relu(self.bn1(self.up1(x))))
        x = x + self.down2(torch.relu(self.up2(x)))
        return self.head(3 * x.mean((2, 3)) + x.amax((2, 3)))


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = Net().eval()
    with torch.no_grad():
        made.up2.weight[3:] = made.up2.weight[0]
        made.up2.bias[3:] = made.up2.bias[0]
    return made


@pytest.fixture(scope="module")
def pruner(net: Net) -> Pruner:
    return Pruner(net, BATCHES)


def divergence(a: nn.Module, b: nn.Module) -> float:
    with torch.no_grad():
        p, q = (m(IMAGES).log_softmax(-1) for m in (a, b))
        return float((p.exp() * (p - q)).sum(-1).mean())


def test_macs_are_counted(net: Net) -> None:
    found = macs(net, BATCHES[0])
    assert found["up1"] == (64 * 8 * 12 * 9, (12, 8))
    assert found["head"] == (40, (5, 8))
    assert list(found) == ["stem", "up1", "down1", "up2", "down2", "head"]


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4])
def test_the_budget_is_met_as_it_is_counted(share: float, pruner: Pruner) -> None:
    done = pruner.prune(share, adapt=False)
    before, after = (
        sum(cost for cost, _ in macs(m, BATCHES[0]).values()) for m in (pruner.model, done.model)
    )
    assert done.flops == pytest.approx(after / before)
    assert done.flops <= share
    unit = max(
        1 - pruner.flops([int(i == k) for i in range(len(pruner.parts))])
        for k in range(len(pruner.parts))
    )
    assert done.flops > share - 2 * unit


def test_what_repeats_goes_first_and_costs_nothing(net: Net, pruner: Pruner) -> None:
    done = pruner.prune(0.95)
    assert done.left["down2"][1] < 12
    assert done.left["down1"] == (12, 12)
    repeats = [
        int(u)
        for part in pruner.parts
        if part.group.read[0].name == "down2.weight"
        for u in part.curve.order
    ]
    assert set(repeats[:9]) <= {0, *range(3, 12)}
    assert divergence(net, done.model) < 1e-3


def test_adapting_keeps_more(net: Net, pruner: Pruner) -> None:
    plain, adapted = (divergence(net, pruner.prune(0.5, adapt).model) for adapt in (False, True))
    assert adapted < 0.5 * plain


def test_the_damage_is_foreseen(net: Net, pruner: Pruner) -> None:
    """Within a factor of three, though a mean over positions adds up errors of one sign."""
    done = pruner.prune(0.6)
    assert 1 / 3 < divergence(net, done.model) / done.predicted < 3
    assert any(part.sensitivity > 1.5 for part in pruner.parts)


def test_fewer_flops_cost_more(pruner: Pruner) -> None:
    done = [pruner.prune(share, adapt=False).predicted for share in (1.0, 0.8, 0.6, 0.4)]
    assert done[0] == 0
    assert done == sorted(done)


def test_the_same_seed_prunes_the_same(net: Net, pruner: Pruner) -> None:
    again = Pruner(copy.deepcopy(net), BATCHES)
    a, b = (p.prune(0.6).model.state_dict() for p in (pruner, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_impossible_budgets_are_refused(pruner: Pruner) -> None:
    with pytest.raises(BudgetError, match="above 0 and up to 1, got 0"):
        pruner.prune(0)
    with pytest.raises(BudgetError, match="the least that this model can be cut to is"):
        pruner.prune(0.01)


def test_a_model_with_nothing_to_cut_is_refused() -> None:
    with pytest.raises(BudgetError, match="no unit of this model can leave"):
        Pruner(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval(), BATCHES)


def test_widths_are_what_an_engine_computes_at_once() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 64, 3, padding=1)),
            *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)),
        ).eval()
    batches = [
        (torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(i)),) for i in (1, 2)
    ]
    pruner = Pruner(net, batches, vector=16)
    widths = set()
    for share in (0.9, 0.6, 0.4, 0.2):
        found = pruner.prune(share, adapt=False)
        assert found.flops <= share
        widths |= {after for _, after in found.left.values()}
    assert widths <= {4, 8, 16, 32, 48, 64}
    assert len(widths) > 3
    assert pruner.least() == pytest.approx(pruner.flops([44, 60]))
