"""What layers read, against plain sums; what errors cost, against the divergence that they make."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sprue.structure.readings import VECTORS, columns_of, read, rows_of

SEED = torch.Generator().manual_seed(0)
IMAGES = torch.randn(64, 3, 6, 6, generator=SEED)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.b, self.head = nn.Conv2d(5, 6, (1, 3), dilation=(1, 1)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net().eval()


@pytest.mark.parametrize("name", ["a", "b", "head"])
def test_columns_times_weights_are_the_outputs(name: str, net: Net) -> None:
    module, seen = net.get_submodule(name), list[tuple[Tensor, Tensor]]()
    hook = module.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        net(IMAGES)
        hook.remove()
        (x, y), W = seen[0], module.weight.flatten(1)
        product = columns_of(module, x) @ W.T + module.bias
    torch.testing.assert_close(product, rows_of(module, y))


def test_moments_are_means_over_examples_and_positions(net: Net) -> None:
    found = read(net, [(IMAGES[:40],), (IMAGES[40:],)], ["a"])["a"]
    columns = columns_of(net.a, IMAGES)
    torch.testing.assert_close(found.H, columns.T @ columns / len(columns))


@pytest.mark.parametrize("name", ["a", "b", "head"])
def test_importances_foresee_the_divergence(name: str, net: Net) -> None:
    """Over many small random errors of a layer, to a factor: positions are taken as independent."""
    batches = [(IMAGES,)] * 20
    found = read(net, batches, [name])[name]
    generator, ratios = torch.Generator().manual_seed(2), []
    with torch.no_grad():
        p = net(IMAGES).log_softmax(-1)
        for _ in range(20):
            other = copy.deepcopy(net)
            weight = other.get_submodule(name).weight
            D = 0.02 * torch.randn(weight.shape, generator=generator)
            weight += D
            q = other(IMAGES).log_softmax(-1)
            kl = float((p.exp() * (p - q)).sum(-1).mean())
            D = D.flatten(1)
            cost = 0.5 * float(((D @ found.H) * D).sum(1).double() @ found.importance)
            ratios.append(kl / cost)
    mean = sum(ratios) / len(ratios)
    assert 0.7 < mean < (1.4 if name == "head" else 8.0)


def test_vectors_have_importances_too(net: Net) -> None:
    found = read(net, [(IMAGES,)] * 30, ["head"], VECTORS)["head"]
    torch.testing.assert_close(
        found.importance, torch.ones(4, dtype=torch.float64), atol=0.1, rtol=0
    )


def test_the_same_seed_gives_the_same(net: Net) -> None:
    before = torch.random.get_rng_state()
    a, b, c = (read(net, [(IMAGES,)], ["a"], seed=seed)["a"] for seed in (0, 0, 1))
    assert torch.equal(a.importance, b.importance)
    assert not torch.equal(a.importance, c.importance)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.grad is None for p in net.parameters())


def test_no_examples_and_layers_out_of_reach_are_refused(net: Net) -> None:
    with pytest.raises(ValueError, match="expected examples"):
        read(net, [], ["a"])
    other = copy.deepcopy(net)
    other.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="spare is not reached"):
        read(other, [(IMAGES,)], ["spare"])
    net.b.padding_mode, mode = "circular", net.b.padding_mode
    try:
        with pytest.raises(ValueError, match="padded with a number of zeros"):
            columns_of(net.b, functional.relu(net.a(IMAGES)))
    finally:
        net.b.padding_mode = mode


def test_activations_that_write_over_outputs_hide_nothing() -> None:
    """A Linear on three dimensions gives a view, and hooks on it are lost once that is written."""
    x = torch.randn(32, 5, 4, generator=torch.Generator().manual_seed(3))
    found = []
    for inplace in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(4)
            layers = nn.Linear(4, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 3)
            model = nn.Sequential(*layers).eval()
        found.append(read(model, [(x,)], ["0"])["0"].importance)
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] > 0).any()
