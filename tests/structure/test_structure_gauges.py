"""Layers as matrices, and what changes of them cost, against the derivatives of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sprue.structure import gauges, matrices

GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Turned(nn.Module):
    """The linear layer of GPT-2."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.nf = out
        self.weight, self.bias = nn.Parameter(randn(width, out)), nn.Parameter(randn(out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


Turned.__name__ = "Conv1D"

LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(4, 3), randn(6, 5, 4)),
    "linear-of-vectors": (lambda: nn.Linear(4, 3), randn(6, 4)),
    "turned": (lambda: Turned(4, 3), randn(6, 5, 4)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), randn(6, 4, 7, 6)),
    "pointwise": (lambda: nn.Conv2d(4, 6, 1), randn(6, 4, 3, 3)),
    "strided-pointwise": (lambda: nn.Conv2d(4, 6, 1, stride=2, bias=False), randn(6, 4, 5, 5)),
    "dilated": (
        lambda: nn.Conv2d(4, 6, (3, 1), dilation=(2, 1), padding="same"),
        randn(6, 4, 6, 7),
    ),
    "reflected": (
        lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"),
        randn(6, 4, 5, 5),
    ),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), randn(6, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), randn(6, 4, 5, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), randn(6, 4, 9)),
    "embedding": (lambda: nn.Embedding(7, 3), torch.randint(7, (6, 5), generator=GENERATOR)),
}


class Network(nn.Module):
    """A layer, something that bends, and a mean over positions."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if isinstance(self.layer, (nn.Conv1d, nn.Conv2d)):
            y = y.movedim(1, -1)
        return torch.tanh(y.reshape(len(x), -1, y.shape[-1])).mean(1)


def made(layer: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return layer().eval()


@pytest.fixture(params=LAYERS)
def case(request: Any) -> tuple[nn.Module, Tensor]:
    layer, x = LAYERS[request.param]
    return made(layer), x


def test_a_matrix_and_back(case: tuple[nn.Module, Tensor]) -> None:
    module, _ = case
    W = matrices.matrix(module)
    assert torch.equal(matrices.shaped(module, W), module.weight)
    assert W.shape[1] * matrices.groups(module) % matrices.under(module) == 0
    assert matrices.is_layer(module)
    assert not matrices.is_layer(nn.LayerNorm(3))


def test_columns_times_the_matrix_are_the_outputs(case: tuple[nn.Module, Tensor]) -> None:
    module, x = case
    if matrices.is_embedding(module):
        pytest.skip("its columns are looked up")
    y = matrices.channels(module, module(x))
    places = torch.tensor([0, 1, 3, len(y) - 1])
    columns = matrices.sampled(module, x, places)
    W = matrices.matrix(module).unflatten(0, (len(columns), -1))
    found = (columns @ W.transpose(1, 2)).transpose(0, 1).flatten(1)
    bias: Any = module.bias if module.bias is not None else 0.0
    torch.testing.assert_close(found + bias, y[places], rtol=1e-4, atol=1e-5)


def along(network: nn.Module, name: str, x: Tensor, D: Tensor, u: Tensor) -> Tensor:
    """For each example how much a change of a weight moves the outputs along u, to first order."""
    module = network.get_submodule(name)
    found = []
    for n in range(len(x)):
        (g,) = torch.autograd.grad((network(x)[n] * u[n]).sum(), [module.weight])
        found.append((g * matrices.shaped(module, D)).sum())
    return torch.stack(found).double()


def fixed(u: Tensor) -> gauges.Pull:
    """A pull along one vector for each example."""
    return lambda y, batch, generator: (y * u[: len(y)]).sum()


def some(module: nn.Module, count: int = 2) -> Tensor:
    return randn(count, *matrices.matrix(module).shape, seed=5)


def test_the_damage_is_that_of_the_derivative(case: tuple[nn.Module, Tensor]) -> None:
    module, x = case
    network = Network(module)
    D, y = some(module), network(x)
    u = randn(*y.shape, seed=9)
    profile = gauges.profile(network, (x[:2],))
    assert profile["layer"].apart
    given = x if x.is_floating_point() else x.clone()
    found = gauges.damages(network, [(given,)], {"layer": D}, profile, fixed(u), draws=2, seed=0)[
        "layer"
    ]
    expected = torch.stack([along(network, "layer", x, d, u) for d in D]).square()
    torch.testing.assert_close(found.nats, expected.mean(1) / 2, rtol=1e-4, atol=1e-9)
    spread = expected.var(1, unbiased=False) / 4 / (2 * len(x))
    torch.testing.assert_close(found.spread, spread.sqrt(), rtol=1e-4, atol=1e-9)
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


class Tied(nn.Module):
    """An embedding whose matrix reads the states again; positions that all examples share."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(7, 4), nn.Embedding(5, 4)
        self.inner = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.place(torch.arange(ids.shape[1])[None])
        x = self.relu(self.inner(x)) + self.inner(x)
        return self.head(x)


def test_a_weight_that_several_share_and_a_layer_that_runs_twice() -> None:
    network, ids = made(Tied), LAYERS["embedding"][1]
    profile = gauges.profile(network, (ids[:2],))
    assert list(profile) == ["embedding", "place", "inner", "head"]
    assert profile["inner"].positions == 10
    assert profile["embedding"].positions == 5
    assert (profile["head"].apart, profile["place"].apart) == (True, False)
    u = randn(*network(ids).shape, seed=3)
    names = ["head", "inner", "place"]
    D = {n: some(network.get_submodule(n)) for n in names}
    found = gauges.damages(
        network,
        [(ids,)],
        D,
        profile,
        fixed(u),
        draws=1,
        seed=0,
        tied={"head": ["embedding"]},
    )
    for name in ("head", "inner"):
        expected = torch.stack([along(network, name, ids, d, u) for d in D[name]]).square()
        torch.testing.assert_close(found[name].nats, expected.mean(1) / 2, rtol=1e-4, atol=1e-9)
    # examples that share what they look up are taken together, which is right on average
    together = torch.stack([along(network, "place", ids, d, u).sum() for d in D["place"]])
    expected = together.square() / len(ids) / 2
    torch.testing.assert_close(found["place"].nats, expected, rtol=1e-4, atol=1e-9)


class Overwritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        x.add_(1)
        return y


def test_an_input_that_is_written_over_is_noticed() -> None:
    network, x = made(Overwritten), randn(4, 3)
    profile = gauges.profile(network, (x[:2],))
    D = {"second": some(network.second)}
    with pytest.raises(ValueError, match="the layer second reads is written over"):
        gauges.damages(network, [(x,)], D, profile, fixed(randn(4, 2)), draws=1, seed=0)


def test_moments_are_those_of_the_columns(case: tuple[nn.Module, Tensor]) -> None:
    module, x = case
    network = Network(module)
    found = gauges.moments(network, [(x[:2],), (x[2:],)], {"layer": 1.0}, 0)["layer"]
    count = matrices.channels(module, module(x)).shape[0]
    assert found.positions == count
    if matrices.is_embedding(module):
        assert found.H[0].tolist() == pytest.approx(
            (x.flatten().bincount(minlength=7) / count).tolist()
        )
        return
    columns = matrices.sampled(module, x, torch.arange(count))
    torch.testing.assert_close(found.H, columns.transpose(1, 2) @ columns / count)
    torch.testing.assert_close(found.mean, columns.mean(1))
    wide = gauges.moments(network, [(x,)], {"layer": 1.0}, 0, widest=2)["layer"]
    torch.testing.assert_close(wide.H, columns.square().mean(1))
    if len(columns) > 1:
        y = matrices.channels(module, module(x)) - module.bias
        assert found.outputs is not None
        torch.testing.assert_close(found.outputs, y.T @ y / count)
    else:
        assert found.outputs is None


def test_a_convolution_reads_what_torch_unfolds() -> None:
    layer, x = LAYERS["conv2d"]
    columns = matrices.sampled(made(layer), x, torch.arange(6 * 4 * 3))[0]
    whole = functional.unfold(x, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(columns, whole)


def test_some_positions_are_taken_at_random_and_none_of_the_padding() -> None:
    module, x = made(LAYERS["linear"][0]), randn(6, 50, 4)
    network = Network(module)
    runs = [gauges.moments(network, [(x,)], {"layer": 0.2}, seed)["layer"] for seed in (0, 0, 1)]
    assert [run.positions for run in runs] == [60, 60, 60]
    assert torch.equal(runs[0].H, runs[1].H)
    assert not torch.equal(runs[0].H, runs[2].H)
    real = torch.arange(50).expand(6, 50) < 20
    found = gauges.moments(network, [(x,)], {"layer": 1.0}, 0, lambda batch: real)["layer"]
    kept = x[real]
    assert found.positions == 120
    torch.testing.assert_close(found.H[0], kept.T @ kept / 120)
