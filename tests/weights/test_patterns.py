"""Which weights a mask keeps, against a plain sort."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sprue.weights import patterns


def kept(row: list[float], zeros: int) -> list[bool]:
    """All but the `zeros` lowest; of equal ones those that come first stay."""
    order = sorted(range(len(row)), key=lambda i: (row[i], -i))
    gone = set(order[:zeros])
    return [i not in gone for i in range(len(row))]


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("levels", [None, 3, 1])
@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.5, 0.77, 0.99])
def test_the_lowest_go(sparsity: float, levels: int | None, by_row: bool) -> None:
    score = torch.rand(9, 31, generator=torch.Generator().manual_seed(2))
    if levels is not None:
        score = (score * levels).floor()  # many equal ones
    before = score.clone()
    mask = patterns.select(score, patterns.parse("unstructured"), sparsity, by_row=by_row)
    assert torch.equal(score, before)
    rows = score if by_row else score.reshape(1, -1)
    expected = [kept(row.tolist(), round(sparsity * len(row))) for row in rows]
    assert torch.equal(mask, Tensor(expected).bool().view(score.shape))
