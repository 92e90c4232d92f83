"""Thresholds on the inputs of packed matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sprue.weights import packed, threshold
from sprue.weights.grids import columns, integer, raw


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_small_inputs_count_as_zero_and_odd_ones_stay() -> None:
    x = torch.tensor([0.1, -0.1, 0.5, -0.5, 0.6, -0.6, 0.0, math.inf, -math.inf])
    expected = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.6, -0.6, 0.0, math.inf, -math.inf])
    assert torch.equal(threshold.applied(x, 0.5), expected)
    assert threshold.applied(torch.tensor([math.nan]), 9.0).isnan().all()
    assert torch.equal(threshold.applied(x, 0.0), x)


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 1000))
def test_a_share_is_met_to_one_value(count: int, share: float, seed: int) -> None:
    x = _random(count, seed=seed)
    found = threshold.at_share(x, share)
    assert abs(int(threshold.dropped(x, found).sum()) - share * count) <= 1
    assert torch.equal(threshold.dropped(x, found), threshold.applied(x, found) == 0)


def test_values_that_are_equal_stay_together() -> None:
    assert threshold.at_share(torch.zeros(9), 0.5) == 0
    assert threshold.at_share(torch.ones(9), 0.5) == 1


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="a share from 0 to 1"):
        threshold.at_share(torch.ones(3), share)


@pytest.mark.parametrize("bad", [(-1.0, 0.5), (math.nan, 0.5), (math.inf, 0.5), (1.0, 1.5)])
def test_what_is_no_threshold_is_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="finite threshold"):
        threshold.attach({}, *bad)


@pytest.mark.parametrize("grid", ["raw", "columns", "int"])
def test_any_grid_can_carry_one(grid: str) -> None:
    W, x = _random(12, 16), _random(3, 16, seed=1)
    pack = {"raw": raw.pack, "columns": columns.pack}.get(grid)
    meta, tensors = pack(W) if pack else integer.round_to_nearest(W, 4, 8, True)
    told = threshold.attach(meta, 0.7, 0.5)
    small = torch.where(x.abs() <= 0.7, 0.0, x)
    expected = small.double() @ packed.dense(meta, tensors).double().T
    for some, y in [(x, expected), (x[:1], expected[:1]), (x[0], expected[0])]:
        torch.testing.assert_close(
            packed.matmul(told, tensors, some).double(), y, rtol=1e-5, atol=1e-5
        )
    assert packed.flops(told) == packed.flops(meta) // 2
