"""Weights on coarse grids with a step for each output."""

from __future__ import annotations

import pytest
import torch

from sprue.structure.coarse import BITS, on_grid
from sprue.weights.grids import integer

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(12, 40, generator=GENERATOR)
X = torch.randn(400, 8, generator=GENERATOR) @ torch.randn(8, 40, generator=GENERATOR)
H = X.T @ X / len(X) + 0.05 * torch.eye(40)


@pytest.mark.parametrize("bits", BITS)
def test_each_row_has_its_own_even_grid(bits: int) -> None:
    V = on_grid(W, H, bits)
    assert V.shape == W.shape
    for row in V:
        levels = row.unique()
        assert len(levels) <= 2**bits
        steps = levels.diff() / levels.diff().min()
        assert torch.allclose(steps, steps.round(), atol=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_errors_make_up_for_one_another(bits: int) -> None:
    def lost(V: torch.Tensor) -> float:
        D = V.double() - W.double()
        return float(((D @ H.double()) * D).sum())

    scale, zero = integer.fit_scales(W, bits, False)
    plain = integer.dequantize(integer.quantize(W, scale, zero, bits), scale, zero)
    assert lost(on_grid(W, H, bits)) < 0.6 * lost(plain)


def test_more_bits_lose_less() -> None:
    errors = [float((on_grid(W, H, bits) - W).square().sum()) for bits in BITS]
    assert errors[1] < 0.2 * errors[0]
