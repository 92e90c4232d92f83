"""The importance of experts, against REAP's formula."""

from __future__ import annotations

import pytest
import torch

from sprue.structure.dropping import Importance, kept


def test_importance_is_the_mean_of_gate_times_norm() -> None:
    g = torch.Generator().manual_seed(0)
    gates, outputs = torch.rand(7, generator=g), torch.randn(7, 5, generator=g)
    found = Importance(3)
    found.add(1, gates[:4], outputs[:4])
    found.add(1, gates[4:], outputs[4:])
    expected = sum(float(a) * float(o.double().norm()) for a, o in zip(gates, outputs, strict=True))
    assert found.value().tolist() == pytest.approx([0, expected / 7, 0])
    assert found.tokens.tolist() == [0, 7, 0]


def test_the_most_important_stay_in_order() -> None:
    assert kept(torch.tensor([0.2, 0.9, 0.2, 0.5]), 3).tolist() == [0, 1, 3]
