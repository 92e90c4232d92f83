"""What weights alone tell, against what was planted in them and plain computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.models import nets
from sprue.plan.look import Asked
from sprue.plan.weigh import weigh


class Net(nn.Module):
    """An embedding whose weights a head shares, convolutions, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.mix = nn.Conv1d(8, 6, 3, padding=1)
        self.depth = nn.Conv1d(6, 6, 3, padding=1, groups=6)
        self.out = nn.Linear(6, 8)
        self.head = nn.Linear(8, 30, bias=False)
        self.head.weight = self.embed.weight
        self.never = nn.Linear(5, 4)

    def forward(self, ids: Tensor) -> Tensor:
        y = self.depth(torch.relu(self.mix(self.embed(ids).transpose(1, 2))))
        logits: Tensor = self.head(self.out(torch.relu(y).transpose(1, 2)))
        return logits


def made(module: nn.Module, *example: Tensor) -> nets.Net:
    return nets.Net(module.eval(), nets.TOKENS, ("x",), example, Path("net"))


def seeded() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


IDS = torch.zeros(2, 7, dtype=torch.int64)


def test_what_is_planted_is_found() -> None:
    module = seeded()
    with torch.no_grad():
        module.mix.weight[:, 2] = 0  # an input that nothing reads
        module.mix.weight[4] = 0  # an output that is always zero
        module.mix.weight[5] = 3 * module.mix.weight[1]  # one that repeats another
        a, b = torch.randn(2, 8, 1, generator=torch.Generator().manual_seed(1))
        module.out.weight.copy_(a @ b[:6].T)  # of one direction
    found = weigh(made(module, IDS))
    layers = {layer.name: layer for layer in found.layers}
    assert set(layers) == {"head", "mix", "depth", "out"}  # what is shared counts once
    mix = layers["mix"]
    assert (mix.inputs, mix.dead_inputs, mix.dead_outputs, mix.repeated_outputs) == (8, 1, 1, 1)
    zeros = int((module.mix.weight == 0).sum())
    assert mix.dead_connections is not None
    assert zeros <= mix.dead_connections <= zeros + 2
    assert mix.spare_inputs is not None
    assert mix.spare_inputs >= 1
    assert layers["out"].rank == 1
    assert layers["out"].spare_kind == "rank"
    assert (layers["depth"].spare_inputs, layers["depth"].rank) == (None, None)
    assert found.idle == (("never", 24),)


def test_the_figures_are_those_of_the_weights() -> None:
    module = seeded()
    found = weigh(made(module, IDS), Asked(error=0.2, share=0.1))
    layers = {layer.name: layer for layer in found.layers}
    W = module.mix.weight.detach().double()
    squares = W.square().sum((0, 2)).sort().values.cumsum(0)
    assert layers["mix"].spare_inputs == int((squares <= 0.2 * squares[-1]).sum())
    rms = W.flatten(1).norm(dim=1)[:, None]
    assert layers["mix"].dead_connections == int((W.flatten(1).abs() <= 0.1 * rms).sum())
    assert layers["mix"].macs == 7 * W.numel()
    assert layers["depth"].macs == 7 * 6 * 3


def test_no_rank_is_claimed_that_loses_more() -> None:
    module = seeded()
    found = {layer.name: layer for layer in weigh(made(module, IDS), Asked(error=0.2)).layers}
    for name in ("mix", "out", "head"):
        W = module.get_submodule(name).weight
        assert isinstance(W, Tensor)
        values = np.linalg.svd(W.detach().flatten(1).double().numpy(), compute_uv=False) ** 2
        least = int(np.argmax(np.cumsum(values) >= 0.8 * values.sum())) + 1
        rank = found[name].rank
        assert rank is not None
        assert least <= rank <= least + 2


def test_nothing_is_predicted() -> None:
    found = weigh(made(seeded(), IDS))
    assert found.examples == (0, 0)
    assert not found.measured
    assert not found.options
    assert all(layer.repeated_inputs is None for layer in found.layers)


def test_rows_that_must_depend_on_one_another_are_not_counted() -> None:
    module = nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 4))
    wide, narrow = weigh(made(module, torch.zeros(2, 4))).layers
    assert wide.repeated_outputs is None
    assert narrow.repeated_outputs == 0


def test_the_module_is_left_as_it_was() -> None:
    module = seeded()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    weigh(made(module, IDS))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no layer of this network is known"):
        weigh(made(nn.ReLU(), torch.zeros(2, 3)))


def test_weights_of_zeros() -> None:
    module = nn.Sequential(nn.Linear(6, 3))
    module[0].weight.data.zero_()
    (layer,) = weigh(made(module, torch.zeros(2, 6))).layers
    assert (layer.dead_connections, layer.dead_outputs, layer.dead_inputs) == (18, 3, 6)
    assert layer.repeated_outputs == 0
