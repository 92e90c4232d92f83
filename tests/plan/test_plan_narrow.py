"""Language models with fewer heads, neurons and layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sprue.errors import BudgetError
from sprue.plan.narrow import apart, depth, linear_flops, narrowed, without_layer
from sprue.proof import load


@pytest.fixture(scope="module")
def model(folder: Callable[..., Path]) -> Any:
    return load.model(folder("mistral"), "cpu")


@pytest.fixture(scope="module")
def shallow(speaking: Callable[..., Path]) -> Any:
    """Of two layers, none of which leaves."""
    return load.model(speaking("mistral", num_hidden_layers=2), "cpu")


@pytest.fixture(scope="module")
def windows() -> Tensor:
    return torch.randint(3, 96, (16, 24), generator=torch.Generator().manual_seed(0))


def test_flops_are_two_for_each_weight_of_linears_and_head(model: Any) -> None:
    config = model.config
    inner, width = config.hidden_size, config.head_dim or config.hidden_size // 4
    heads = width * (config.num_attention_heads + config.num_key_value_heads)
    block = 2 * inner * heads + 3 * inner * config.intermediate_size
    expected = 2 * (config.num_hidden_layers * block + config.vocab_size * inner)
    assert linear_flops(model) == expected


@pytest.mark.parametrize("share", [0.75, 0.5])
def test_the_share_is_met_by_a_plain_model(model: Any, windows: Tensor, share: float) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = narrowed(model, windows, share)
    assert found.flops <= share
    assert found.flops > share - 0.12  # whole heads and neurons, the same in every layer
    assert found.flops == pytest.approx(linear_flops(found.model) / linear_flops(model))
    assert type(found.model) is type(model)
    again = type(model)(found.model.config)
    again.load_state_dict(found.model.state_dict())  # its config says its sizes
    assert found.model.config.num_hidden_layers == len(found.layers) == depth(found.model)
    assert found.kl_nats == pytest.approx(apart(model, found.model, windows), rel=1e-5)
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())


def test_what_is_left_is_fitted_to_the_text(shallow: Any, windows: Tensor) -> None:
    """Fitting to other text gives another model, and one that is worse on this one."""
    other = torch.randint(3, 96, windows.shape, generator=torch.Generator().manual_seed(1)) % 9
    mine, theirs = (narrowed(shallow, ids, 0.7).model for ids in (windows, other))
    assert apart(shallow, mine, windows) < apart(shallow, theirs, windows)


def test_a_layer_that_does_nothing_is_the_first_to_go(model: Any, windows: Tensor) -> None:
    import copy

    idle = copy.deepcopy(model)
    layer = idle.model.layers[1]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    shallow = without_layer(idle, 1)
    assert depth(shallow) == depth(idle) - 1
    assert apart(idle, shallow, windows) == pytest.approx(0, abs=1e-6)
    found = narrowed(idle, windows, 0.75)
    assert found.layers == (0, 2)


def test_where_no_unit_can_leave_layers_do(folder: Callable[..., Path], windows: Tensor) -> None:
    fused = load.model(folder("phi3"), "cpu")  # one matrix holds gate and up
    found = narrowed(fused, windows, 0.8)
    assert len(found.layers) == 2
    assert found.left == {}
    assert found.flops <= 0.8


def test_the_same_bytes_twice_and_no_global_chance(shallow: Any, windows: Tensor) -> None:
    state = torch.get_rng_state()
    a, b = (narrowed(shallow, windows, 0.7, seed=3).model.state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(state, torch.get_rng_state())


def test_a_share_that_no_model_can_meet_is_refused(model: Any, windows: Tensor) -> None:
    with pytest.raises(BudgetError, match="cannot be met"):
        narrowed(model, windows, 0.01)
