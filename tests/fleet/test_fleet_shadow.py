"""Thresholds of reserves by conformal risk control."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sprue.fleet.fleet import FULL
from sprue.fleet.replayed import Asked, Reading
from sprue.fleet.reserve import Reserve
from sprue.fleet.scoring import Need, Read, Tokens
from sprue.fleet.shadow import Risk, lost_with, peak, thresholds

FORM = Reserve(math.inf, "margin", None, 1)


def need(worse: float, doubt: float, model: str = "law") -> Asked:
    """Of two tokens; the specialist is so much worse in nats a token, and so unsure once."""

    def reading(nats: float, unsure: float) -> Reading:
        margin = torch.tensor([1.0, 1 - unsure], dtype=torch.float64)
        read = Read(torch.full((2,), nats, dtype=torch.float64), torch.zeros(2).double(), margin)
        return Reading(Tokens((1,), (2, 3)), read, (0, 1, 2))

    full, mine = reading(1.0, 0.0), reading(1.0 + worse, doubt)
    return Asked("law", model, Need("q", "ab"), full, mine, full)


def test_what_is_lost_begins_at_the_tolerance_and_ends_at_one() -> None:
    found = [lost_with(need(worse, 0.0), 0.1) for worse in (-0.5, 0.05, 0.35, 5.0, math.inf)]
    assert found == pytest.approx([0.0, 0.0, 0.25, 1.0, 1.0])


def test_the_largest_doubt_counts() -> None:
    assert peak(need(0.0, 0.3), FORM, 8) == pytest.approx(0.3)


def test_a_specialist_that_loses_nothing_is_always_believed() -> None:
    found = thresholds([need(0.0, d) for d in np.linspace(0, 1, 99)], {"law": 8}, Risk(0.02), FORM)
    assert found["law"].threshold == math.inf


def test_the_unsure_answers_that_lose_are_handed_over() -> None:
    rng = np.random.default_rng(0)
    some = [need(1.1 if d > 0.8 else 0.0, d) for d in rng.random(500)]
    found = thresholds(some, {"law": 8}, Risk(0.02, 0.1), FORM)["law"].threshold
    assert 0.8 < found < 0.84
    stay = [one for one in some if peak(one, FORM, 8) <= found]
    assert sum(lost_with(one, 0.1) for one in stay) / len(some) <= 0.02


def test_too_few_answers_show_nothing() -> None:
    found = thresholds([need(0.0, 0.5)] * 10, {"law": 8}, Risk(0.02), FORM)
    assert found["law"].threshold == -math.inf


def test_each_specialist_has_its_own_and_the_full_model_none() -> None:
    some = [need(0.0, 0.1)] * 60 + [need(2.0, 0.9, "code")] * 60 + [need(0.0, 0.1, FULL)] * 60
    found = thresholds(some, {"law": 8, "code": 8, FULL: 8}, Risk(0.02), FORM)
    assert set(found) == {"law", "code"}
    assert found["law"].threshold == math.inf > found["code"].threshold
