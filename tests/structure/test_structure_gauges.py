"""What is read off running layers, against gradients and moments taken one example at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sprue.structure import gauges, matrices
from sprue.structure.readings import classes_apart

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 4), (6, 3, 5)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (6, 4, 7, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, (3, 1), padding="same", groups=2), (6, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, dilation=2), (6, 4, 8, 8)),
    "reflected": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (6, 2, 4, 4)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 4, stride=3), (6, 3, 11)),
    "embedding": (lambda: nn.Embedding(7, 4), (6, 5)),
}


def made(kind: str) -> tuple[nn.Module, Tensor]:
    build, shape = LAYERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module = build()
        x = torch.randint(7, shape) if kind == "embedding" else torch.randn(shape)
    return module.requires_grad_(False), x


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", LAYERS)
def test_products_are_inner_products_with_gradients(kind: str) -> None:
    module, x = made(kind)
    W = matrices.matrix(module)
    D = randn(3, *W.shape)
    y = module(x)
    g = randn(*y.shape, seed=2)
    found = matrices.products(module, x, g, D, len(x))
    weight: Any = module.weight
    for i in range(len(x)):
        asked = weight.detach().clone().requires_grad_()
        out = torch.func.functional_call(module, {"weight": asked}, (x[i : i + 1],))
        (gradient,) = torch.autograd.grad((out * g[i : i + 1]).sum(), asked)
        for k in range(3):
            expected = float((gradient * matrices.shaped(module, D[k])).sum())
            assert float(found[i, k]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    together = matrices.products(module, x, g, D, 1)
    assert torch.allclose(together[0], found.sum(0), atol=1e-3)


@pytest.mark.parametrize("kind", [k for k in LAYERS if k != "embedding"])
def test_columns_are_what_the_layer_multiplies(kind: str) -> None:
    module, x = made(kind)
    W, y = matrices.matrix(module), module(x)
    places = torch.tensor([0, 3, 5, 1])
    columns = matrices.sampled(module, x, places)
    rows = W.unflatten(0, (len(columns), -1))
    mine = torch.cat([c @ w.T for c, w in zip(columns, rows, strict=True)], 1)
    bias: Any = module.bias
    assert torch.allclose(mine + bias, matrices.channels(module, y)[places], atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_matrix_goes_back_into_its_layer(kind: str) -> None:
    module, _ = made(kind)
    weight: Any = module.weight
    assert torch.equal(matrices.shaped(module, matrices.matrix(module)), weight)


class Net(nn.Module):
    """A convolution, a linear layer that runs twice, and one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.twice = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.conv(x)).mean((2, 3))
        logits: Tensor = self.head(torch.relu(self.twice(torch.relu(self.twice(y)))))
        return logits


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


def test_profile(net: Net) -> None:
    found = gauges.profile(net, (randn(2, 2, 6, 6),))
    assert {n: p.positions for n, p in found.items()} == {"conv": 16, "twice": 2, "head": 1}
    assert all(p.apart for p in found.values())


def test_moments(net: Net) -> None:
    x = randn(8, 2, 6, 6)
    found = gauges.moments(net, [(x[:5],), (x[5:],)], {"conv": 1.0, "head": 1.0}, 0)
    columns = nn.functional.unfold(x, 3).transpose(1, 2).reshape(-1, 18)
    H = columns.T @ columns / len(columns)
    assert torch.allclose(found["conv"].H[0], H, atol=1e-5)
    assert torch.allclose(found["conv"].mean[0], columns.mean(0), atol=1e-5)
    assert (found["conv"].positions, found["head"].positions) == (8 * 16, 8)
    some = gauges.moments(net, [(x,)], {"conv": 0.25}, 0)["conv"]
    assert some.positions == 32
    assert torch.allclose(some.H[0], H, atol=0.5)
    assert not torch.equal(some.H, gauges.moments(net, [(x,)], {"conv": 0.25}, 1)["conv"].H)


def test_padding_is_left_out() -> None:
    layer = nn.Sequential(nn.Linear(3, 2))
    x, real = randn(2, 4, 3), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    found = gauges.moments(layer, [(x,)], {"0": 1.0}, 0, lambda batch: real)["0"]
    assert found.positions == 4
    assert torch.allclose(found.H[0], x[real].T @ x[real] / 4, atol=1e-6)


def test_of_very_wide_layers_there_is_a_diagonal() -> None:
    layer, x = nn.Sequential(nn.Linear(6, 3)), randn(9, 6)
    found = gauges.moments(layer, [(x,)], {"0": 1.0}, 0, widest=4)["0"]
    assert torch.allclose(found.H[0], x.square().mean(0), atol=1e-6)


def fisher(logits: Tensor, batch: Any, generator: torch.Generator) -> Tensor:
    p = logits.detach().softmax(-1)
    v = p.sqrt() * torch.randn(p.shape, generator=generator)
    return (logits * (v - p * v.sum(-1, keepdim=True))).sum()


def exact(net: nn.Module, x: Tensor, name: str, D: Tensor) -> float:
    """Half of the mean of d^T F d with d the first-order change of the logits."""
    module = net.get_submodule(name)
    weight: Any = module.weight
    added = matrices.shaped(module, D)

    def logits(step: Tensor) -> Tensor:
        changed = {f"{name}.weight": weight.detach() + step * added}
        answer: Tensor = torch.func.functional_call(net, changed, (x,))
        return answer

    y, d = torch.func.jvp(logits, (torch.zeros(()),), (torch.ones(()),))
    p = y.softmax(-1)
    return float(((p * d.square()).sum(-1) - (p * d).sum(-1).square()).mean() / 2)


@pytest.mark.parametrize("name", ["conv", "twice", "head"])
def test_damages_are_the_quadratic_form_of_the_fisher_matrix(net: Net, name: str) -> None:
    x = randn(12, 2, 6, 6)
    profiles = gauges.profile(net, (x[:2],))
    D = 0.1 * randn(2, *matrices.matrix(net.get_submodule(name)).shape)
    found = gauges.damages(net, [(x,)], {name: D}, profiles, fisher, draws=600, seed=0)[name]
    for k in range(2):
        expected = exact(net, x, name, D[k])
        assert float(found.nats[k]) == pytest.approx(expected, abs=5 * float(found.spread[k]))
        assert float(found.spread[k]) < 0.06 * expected
    assert all(p.requires_grad for p in net.parameters())


def test_small_changes_cost_what_is_foreseen(net: Net) -> None:
    x = randn(40, 2, 6, 6)
    W = matrices.matrix(net.conv)
    D = 0.01 * randn(1, *W.shape)
    profiles = gauges.profile(net, (x[:2],))
    found = gauges.damages(net, [(x,)], {"conv": D}, profiles, fisher, draws=200, seed=0)
    with torch.no_grad():
        changed = {"conv.weight": net.conv.weight + matrices.shaped(net.conv, D[0])}
        other = torch.func.functional_call(net, changed, (x,)).double()
        true = classes_apart(net(x).double(), other)
    assert float(found["conv"].nats[0]) == pytest.approx(true, rel=0.15)


def test_tied_weights_change_together() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        embed, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = embed.weight
    model = nn.Sequential(embed, head).eval()
    ids = torch.randint(7, (6, 5), generator=torch.Generator().manual_seed(1))
    profiles = gauges.profile(model, (ids[:2],))
    D = 0.1 * randn(1, 7, 4)
    found = gauges.damages(
        model, [(ids,)], {"1": D}, profiles, fisher, draws=600, seed=0, tied={"1": ["0"]}
    )["1"]

    def logits(step: Tensor) -> Tensor:
        weight = embed.weight.detach() + step * D[0]
        return nn.functional.embedding(ids, weight) @ weight.T

    y, d = torch.func.jvp(logits, (torch.zeros(()),), (torch.ones(()),))
    p = y.softmax(-1)
    expected = float(((p * d.square()).sum(-1) - (p * d).sum(-1).square()).sum(1).mean() / 2)
    assert float(found.nats[0]) == pytest.approx(expected, abs=5 * float(found.spread[0]))
    assert float(found.spread[0]) < 0.06 * expected


def test_inputs_that_are_written_over_are_refused() -> None:
    class Over(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            z: Tensor = self.two(y)
            y.detach().add_(1)
            return z

    model, x = Over(), randn(4, 3)
    profiles = gauges.profile(model, (x[:2],))
    with pytest.raises(ValueError, match="two is written over"):
        gauges.damages(model, [(x,)], {"two": randn(1, 3, 3)}, profiles, fisher, draws=1, seed=0)
