"""The target of a matrix whose inputs have changed, against least squares on samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sprue.weights.target import shifted

F64 = torch.float64
OUT, IN, TOKENS = 12, 24, 400


def _samples(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """(W, x, x'): the inputs before, and after the layers before them were compressed."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(OUT, IN, generator=generator, dtype=F64)
    mix = torch.randn(IN, IN, generator=generator, dtype=F64) / IN**0.5
    x = torch.randn(TOKENS, IN, generator=generator, dtype=F64) @ mix
    # the error is correlated with the input: part of it can be undone
    warp = torch.randn(IN, IN, generator=generator, dtype=F64) / IN**0.5
    return W, x, x + noise * (x @ warp + torch.randn(x.shape, generator=generator, dtype=F64))


def _shifted(W: Tensor, x: Tensor, after: Tensor, damping: float) -> Tensor:
    H, C = after.T @ after / TOKENS, x.T @ after / TOKENS
    return shifted(W.float(), H.float(), C.float(), damping).to(F64)


def _off(V: Tensor, W: Tensor, x: Tensor, after: Tensor) -> float:
    return float(((x @ W.T - after @ V.T) ** 2).sum())


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_it_is_the_regression_of_the_old_outputs_on_the_new_inputs(noise: float) -> None:
    W, x, after = _samples(noise)
    best = torch.linalg.lstsq(after, x @ W.T).solution.T
    V = _shifted(W, x, after, 1e-7)
    # moments in float32, of inputs with a condition number of about 1e4
    torch.testing.assert_close(V, best, rtol=0, atol=2e-3 * float(best.abs().max()))
    assert _off(V, W, x, after) < 1.0001 * _off(best, W, x, after)
    assert _off(V, W, x, after) < 0.8 * _off(W, W, x, after)


def test_with_damping_it_is_the_regression_that_is_pulled_to_the_old() -> None:
    """The least of E|W x - V x'|^2 + ridge |V - W|^2, by least squares on added samples."""
    W, x, after = _samples(0.3)
    H = after.T @ after / TOKENS
    pull = (TOKENS * 0.1 * H.diagonal().mean()).sqrt() * torch.eye(IN, dtype=F64)
    best = torch.linalg.lstsq(torch.cat([after, pull]), torch.cat([x, pull]) @ W.T).solution.T
    V = _shifted(W, x, after, 0.1)
    torch.testing.assert_close(V, best, rtol=0, atol=1e-4 * float(best.abs().max()))


def test_the_stronger_the_damping_the_nearer_to_the_old() -> None:
    W, x, after = _samples(0.3)
    distance = [float((_shifted(W, x, after, d) - W).norm()) for d in (1e-6, 1e-2, 1, 1e2, 1e6)]
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < 1e-5 * distance[0]


def test_the_same_inputs_and_no_inputs_change_nothing() -> None:
    W, x, _ = _samples(0)
    assert torch.equal(_shifted(W, x, x, 0.01), W.float().to(F64))
    unseen = torch.zeros_like(x)
    assert torch.equal(_shifted(W, x, unseen, 0.01), W.float().to(F64))


def test_the_arguments_are_untouched() -> None:
    W, x, after = (t.float() for t in _samples(0.3))
    H, C = after.T @ after, x.T @ after
    before = [t.clone() for t in (W, H, C)]
    shifted(W, H, C, 0.01)
    assert all(torch.equal(a, b) for a, b in zip(before, (W, H, C), strict=True))
