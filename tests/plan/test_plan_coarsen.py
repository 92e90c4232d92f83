"""Which layers get coarser weights so that so many bytes go."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sprue.errors import BudgetError
from sprue.plan.coarsen import Coarsener
from sprue.structure.coarse import BITS
from sprue.structure.readings import CLASSES

IMAGES = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(part,) for part in IMAGES.split(32)]


class Net(nn.Module):
    """One layer that all hangs on, one that hardly counts, and small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Conv2d(3, 32, 1)
        self.dear, self.cheap = nn.Conv2d(32, 64, 3), nn.Conv2d(32, 64, 3)
        self.head, self.unused = nn.Linear(64, 5), nn.Linear(64, 100)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.small(x))
        return self.head((torch.relu(self.dear(h)) + 0.01 * self.cheap(h)).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net().eval()


@pytest.fixture
def coarsener(net: Net) -> Coarsener:
    return Coarsener(net, BATCHES)


def test_what_hardly_counts_goes_first(coarsener: Coarsener) -> None:
    assert [one.name for one in coarsener.layers] == ["dear", "cheap"]
    assert coarsener.pick(4000) == {"cheap": 6}
    assert coarsener.pick(7000) == {"cheap": 4}
    both = coarsener.pick(11000)
    assert both == {"cheap": 4, "dear": 6}
    assert coarsener.pick(coarsener.most) == {"cheap": 4, "dear": 4}


def test_bytes_that_cannot_go(coarsener: Coarsener) -> None:
    with pytest.raises(BudgetError, match=r"save .* at most"):
        coarsener.pick(coarsener.most + 1)
    with pytest.raises(BudgetError, match="large enough"):
        Coarsener(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval(), BATCHES)


def test_weights_lie_on_their_grids_and_the_rest_makes_up_for_them(
    net: Net, coarsener: Coarsener
) -> None:
    before = copy.deepcopy(net.state_dict())
    bits = {"cheap": 4, "dear": 4}
    made = coarsener.coarse(bits)
    for name in bits:
        rows = made.get_submodule(name).weight.flatten(1)  # type: ignore[operator]
        assert max(len(row.unique()) for row in rows) <= 16
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    with torch.no_grad():
        whole = net(IMAGES)
        assert CLASSES.apart(whole, made(IMAGES)) < 1e-2
        assert BITS == (4, 6)
