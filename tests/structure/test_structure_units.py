"""What leaves together, on small networks: without a unit is as if nothing read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sprue.structure.cut import silenced, together, without
from sprue.structure.units import Group, groups

IMAGE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
TOKENS = (torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0)),)


class Chain(nn.Module):
    """Two convolutions with a norm between them, and a head over the flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.head = nn.Conv2d(6, 4, 3), nn.Linear(4 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.b(functional.silu(self.bn(self.a(x))))), 2)
        return self.head(x.flatten(1))


class Residual(nn.Module):
    """A stream that blocks add to, and a projection where it changes its width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.up, self.down = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.wide, self.project, self.head = (
            nn.Conv2d(6, 10, 1),
            nn.Conv2d(6, 10, 1),
            nn.Linear(10, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(torch.relu(self.up(x)))
        x = torch.relu(self.wide(x) + self.project(x))
        return self.head(x.mean((2, 3)))


class Padded(nn.Module):
    """A shortcut that fills up with zeros: the stream is written in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 7, 1)
        self.out, self.head = nn.Conv2d(7, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.pad(x, (0, 0, 0, 0, 2, 2)) + self.out(torch.relu(self.inner(x)))
        return self.head(x.mean((2, 3)))


class Separable(nn.Module):
    """A depthwise convolution with two outputs for each input, and a gate over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.point, self.depth = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 10, 3, padding=1, groups=5)
        self.squeeze, self.excite = nn.Conv2d(10, 4, 1), nn.Conv2d(4, 10, 1)
        self.last, self.head = nn.Conv2d(10, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depth(self.point(x)))
        gate = self.excite(torch.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return self.head(self.last(x * gate).mean((2, 3)))


class Joined(nn.Module):
    """Branches side by side, one of them of another size, read by one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.both, self.head = nn.Conv2d(9, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        b = functional.interpolate(self.b(x), scale_factor=2.0, mode="nearest")
        x = self.both(torch.cat([torch.relu(self.a(x)), b], 1))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Heads, of which keys and values have fewer, and a feed-forward layer beside them."""

    def __init__(self, queries: int = 4, others: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.q, self.k = nn.Linear(12, 3 * queries), nn.Linear(12, 3 * others)
        self.v, self.o = nn.Linear(12, 3 * others), nn.Linear(3 * queries, 12)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)
        self.shared = queries != others

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (w(h).view(*h.shape[:2], -1, 3).transpose(1, 2) for w in (self.q, self.k, self.v))
        a = functional.scaled_dot_product_attention(q, k, v, enable_gqa=self.shared)
        x = x + self.o(a.transpose(1, 2).reshape(*h.shape[:2], -1))
        return x + self.down(functional.gelu(self.up(x)))


class Softmax(nn.Module):
    """Attention that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).view(*x.shape[:2], -1, 3).transpose(1, 2) for w in (self.q, self.k, self.v))
        a = torch.softmax(q @ k.transpose(-1, -2) / 3**0.5, -1) @ v
        return self.o(a.transpose(1, 2).flatten(2))


class Enlarged(nn.Module):
    """A transposed convolution between two others, and its gate, one minus another's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.turned = nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.b, self.head = nn.Conv2d(6, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.turned(torch.relu(self.a(x)))
        x = torch.rsub(x.sigmoid(), 1.0) * x
        return self.head(self.b(x).mean((2, 3)))


class Scored(nn.Module):
    """Heads that are added up by scores which need all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.v, self.o = nn.Linear(12, 4), nn.Linear(12, 12), nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        v = self.v(x).view(*x.shape[:2], 4, 3).transpose(1, 2)
        a = torch.cumsum(self.score(x), -1).transpose(1, 2)[:, :, None].softmax(-1)
        x = x + self.o((a @ v).squeeze(2).flatten(1))[:, None]
        return self.down(torch.relu(self.up(x)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], list[int]]] = {
    # name -> how it is made, its inputs, and how many units each of its groups has
    "chain": (Chain, IMAGE, [6, 4]),
    "residual": (Residual, IMAGE, [6, 8, 10]),
    "padded": (Padded, IMAGE, [7]),
    "separable": (Separable, IMAGE, [5, 4, 6]),
    "joined": (Joined, IMAGE, [4, 5, 6]),
    "attention": (Attention, TOKENS, [4, 20]),
    "grouped queries": (lambda: Attention(4, 2), TOKENS, [2, 20]),
    "softmax": (Softmax, TOKENS, [4]),
    "enlarged": (Enlarged, IMAGE, [4, 6, 5]),
    "scored": (Scored, TOKENS, [20]),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Any, ...], list[int]]:
    make, inputs, sizes = NETWORKS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model, inputs, sizes


def test_every_group_is_found(network: Any) -> None:
    model, inputs, sizes = network
    assert [len(group) for group in groups(model, inputs)] == sizes


def test_a_network_without_a_unit_is_one_in_which_nothing_reads_it(network: Any) -> None:
    model, inputs, _ = network
    with torch.no_grad():
        whole = model(*inputs)
        for group in groups(model, inputs):
            for units in ([0], [len(group) - 1], list(range(1, len(group)))):
                cut = without(model, together([(group, units)]))
                quiet = silenced(model, group, units)
                torch.testing.assert_close(cut(*inputs), quiet(*inputs), atol=1e-5, rtol=1e-5)
                assert count(cut) < count(model)
            assert not torch.allclose(quiet(*inputs), whole, atol=1e-5)


def test_all_groups_at_once(network: Any) -> None:
    model, inputs, _ = network
    found = groups(model, inputs)
    cut = without(model, together((group, [len(group) // 2]) for group in found))
    with torch.no_grad():
        assert cut(*inputs).shape == model(*inputs).shape
    again = groups(cut.eval(), inputs)
    left = [len(g) - 1 for g in found]
    assert [len(g) for g in again] == [n for n in left if n > 1]  # one alone is no group


def test_the_original_stays(network: Any) -> None:
    model, inputs, _ = network
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for group in groups(model, inputs):
        without(model, together([(group, [0])]))
        silenced(model, group, [0])
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_attributes_follow() -> None:
    model, inputs, _ = Separable().eval(), IMAGE, None
    first = groups(model, inputs)[0]
    cut = without(model, together([(first, [0, 3])]))
    assert isinstance(cut, Separable)
    assert (cut.depth.groups, cut.depth.in_channels, cut.depth.out_channels) == (3, 3, 6)
    assert (cut.point.out_channels, cut.squeeze.in_channels) == (3, 6)


def test_the_last_unit_stays() -> None:
    model = Chain().eval()
    group = groups(model, IMAGE)[0]
    with pytest.raises(ValueError, match=r"nothing of a\.weight would stay in dimension 0"):
        without(model, together([(group, range(6))]))


class Unknown(Chain):
    """An operator over channels that is not known."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0 + self.head(
            functional.max_pool2d(self.b(self.a(x).cumsum(1)), 2).flatten(1)
        )


class Halves(nn.Module):
    """Channels that are told apart by number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, 1)
        return self.c(torch.cat([self.b(first), second], 1))


class Shared(nn.Module):
    """One parameter twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 7), nn.Linear(7, 12)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.b(torch.relu(self.a(x)))
        return x


class Tied(nn.Module):
    """Two layers with one matrix between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 7), nn.Linear(7, 7), nn.Linear(7, 7)
        self.c.weight, self.head = self.b.weight, nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))


def test_tied_parameters_stay_tied() -> None:
    model = Tied().eval()
    (group,) = groups(model, TOKENS)
    cut = without(model, together([(group, [2, 5])]))
    assert cut.b.weight is cut.c.weight
    assert cut.b.weight.shape == (5, 5)
    with torch.no_grad():
        torch.testing.assert_close(cut(*TOKENS), silenced(model, group, [2, 5])(*TOKENS))


class Branching(nn.Module):
    """Goes another way for other values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_has_no_graph_is_refused() -> None:
    with pytest.raises(ValueError, match="the graph of Branching cannot be exported"):
        groups(Branching(), TOKENS)


@pytest.mark.parametrize(
    ("make", "inputs", "sizes"),
    [(Unknown, IMAGE, [4]), (Halves, IMAGE, [6]), (Shared, TOKENS, [7])],
)
def test_what_cannot_be_told_stays_whole(make: Any, inputs: Any, sizes: list[int]) -> None:
    model = make().eval()
    found = groups(model, inputs)
    assert [len(group) for group in found] == sizes
    for group in found:
        cut = without(model, together([(group, [1])]))
        with torch.no_grad():
            quiet = silenced(model, group, [1])
            torch.testing.assert_close(cut(*inputs), quiet(*inputs), atol=1e-5, rtol=1e-5)


def test_units_are_numbered_in_order() -> None:
    first: Group = groups(Chain().eval(), IMAGE)[0]
    (place,) = (p for p in first.places if (p.name, p.dim) == ("a.weight", 0))
    assert np.concatenate([unit[place] for unit in first.units]).tolist() == list(range(6))


def count(model: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in model.parameters())
