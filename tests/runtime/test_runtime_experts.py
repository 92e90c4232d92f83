"""The module that runs experts: a few of them, the right ones, and nothing of the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sprue.errors import ArtifactError
from sprue.runtime.experts import Expert, Experts, like

LAYOUT: dict[str, Any] = {
    "width": 8,
    "shared": 3,
    "routed": [5, 4, 4, 4],
    "active": 2,
    "gated": True,
    "bias": False,
    "activation": "act",
}


def made(**changes: Any) -> Experts:
    """Experts with random weights, gains and biases."""
    module = Experts(LAYOUT | changes, nn.SiLU())
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    return module.eval()


def reference(module: Experts, x: Tensor) -> Tensor:
    """Token by token, all in float64."""
    wide, rows = module.double(), []
    for token in x.double():
        scores = wide.router.weight @ token + wide.router.bias
        p = scores.softmax(0)
        y = wide.bias.clone()
        if wide.shared is not None:
            y = y + wide.shared(token)
        for e in scores.argsort(descending=True)[: wide.active].tolist():
            y = y + (1 + wide.gain[e] * p[e]) * wide.experts[e](token)
        rows.append(y)
    module.float()
    return torch.stack(rows).detach()


@pytest.mark.parametrize("changes", [{}, {"shared": 0}, {"gated": False, "bias": True}])
@pytest.mark.parametrize("tokens", [1, 11])
def test_against_the_reference(changes: dict[str, Any], tokens: int) -> None:
    module = made(**changes)
    x = torch.randn(tokens, 8, generator=torch.Generator().manual_seed(1))
    expected = reference(module, x)
    torch.testing.assert_close(module(x).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module(x[None])[0].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 6])
def test_what_is_not_chosen_is_not_computed(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    run = Expert.forward

    def counted(self: Expert, x: Tensor) -> Tensor:
        rows.append(len(x))
        return run(self, x)

    module = made(shared=0)
    monkeypatch.setattr(Expert, "forward", counted)
    module(torch.randn(tokens, 8, generator=torch.Generator().manual_seed(1)))
    assert sum(rows) == 2 * tokens
    assert all(rows)


def test_gains_of_zero_leave_the_experts_as_they_are() -> None:
    module = made(shared=0)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        module.gain.zero_()
        module.router.weight.mul_(0)
        module.router.bias.copy_(torch.tensor([3.0, 0, 2, 0]))
        expected = module.bias + module.experts[0](x) + module.experts[2](x)
    torch.testing.assert_close(module(x), expected)


def test_gradients_reach_router_gains_and_chosen_experts() -> None:
    module = made()
    module(torch.randn(50, 8, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


def test_half_precision_runs() -> None:
    module = made().to(torch.bfloat16)
    for tokens in (1, 4):
        out = module(torch.randn(1, tokens, 8, dtype=torch.bfloat16))
        assert out.dtype == torch.bfloat16
        assert out.shape == (1, tokens, 8)


def test_a_layer_without_that_activation_is_refused() -> None:
    with pytest.raises(ArtifactError, match="no activation 'act'"):
        like(nn.Linear(8, 8), LAYOUT, torch.float32)
