"""What comes of a need: nats and compute, handed over or not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sprue.fleet.fleet import FULL
from sprue.fleet.flops import Flops
from sprue.fleet.replayed import Asked, Reading, handed, running, turn
from sprue.fleet.reserve import Reserve
from sprue.fleet.scoring import Need, Read, Tokens

SMALL, LARGE = Flops(10, 3, 1), Flops(100, 30, 2)
FLOPS = {"law": SMALL, FULL: LARGE}


def reading(nats: list[float], places: list[int], doubt: list[float] | None = None) -> Reading:
    count = len(nats)
    margin = 1 - torch.tensor(doubt or [0.0] * count, dtype=torch.float64)
    read = Read(torch.tensor(nats, dtype=torch.float64), torch.zeros(count).double(), margin)
    return Reading(Tokens((1, 2, 3), tuple(range(count))), read, tuple(places))


def need(doubt: list[float], theirs: Reading | None = None) -> Asked:
    """Four tokens of two characters each, for which the specialist takes 2 nats and the full 1."""
    full = theirs or reading([1.0] * 4, [0, 2, 4, 6, 8])
    mine = reading([2.0] * 4, [0, 2, 4, 6, 8], doubt)
    return Asked("law", "law", Need("q", "aabbccdd"), full, mine, full)


def reserve(threshold: float, hold: int | None = 1, over: int = 1) -> Reserve:
    return Reserve(threshold, "margin", hold, over)


def test_flops_by_hand() -> None:
    # 3 tokens to read, then 2 of 3 to write: 5 in the body, 15 pairs, 3 logits
    assert SMALL.answer(3, 3) == 5 * 10 + 15 * 1 + 3 * 3
    assert SMALL.reads(2, before=3) == 2 * 10 + (4 + 5) * 1
    assert SMALL.reads(5) == SMALL.reads(3) + SMALL.reads(2, before=3)


def test_what_is_sure_stays_with_the_specialist() -> None:
    found = turn(need([0.1] * 4), FLOPS, reserve(0.5), 8)
    assert (found.nats, found.by_full, found.calls, found.handed) == (8.0, 0.0, 0, 0.0)
    assert found.own == SMALL.answer(3, 4)
    assert turn(need([0.9] * 4), FLOPS, None, 8) == found


def test_one_step_is_handed_over() -> None:
    found = turn(need([0.1, 0.9, 0.1, 0.1]), FLOPS, reserve(0.5), 8)
    assert (found.nats, found.by_full, found.calls) == (7.0, 0.25, 1)
    # the full model reads the prompt and what was written, and gives one token
    assert found.handed == LARGE.reads(4) + LARGE.head
    # the specialist reads all, and has asked itself at every step
    assert found.own == SMALL.reads(6) + 4 * SMALL.head


def test_the_rest_is_handed_over() -> None:
    found = turn(need([0.1, 0.9, 0.1, 0.1]), FLOPS, reserve(0.5, None), 8)
    assert (found.nats, found.by_full, found.calls) == (2 + 3.0, 0.75, 1)
    assert found.handed == LARGE.reads(6) + 3 * LARGE.head
    assert found.own == SMALL.reads(4) + 2 * SMALL.head


def test_two_calls_of_two_tokens() -> None:
    found = turn(need([0.9, 0.1, 0.9, 0.9]), FLOPS, reserve(0.5, 2), 8)
    assert (found.nats, found.by_full, found.calls) == (4.0, 1.0, 2)
    assert found.handed == LARGE.reads(6) + 4 * LARGE.head
    assert found.own == SMALL.reads(5) + 2 * SMALL.head


def test_a_doubt_over_several_steps_begins_anew_after_a_call() -> None:
    some = need([0.9, 0.6, 0.0, 0.9])
    assert handed(some, reserve(0.5, 1, 2), 8) == [((0, 1), (0, 1)), ((1, 2), (1, 2))]
    np.testing.assert_allclose(running(np.array([0.9, 0.6, 0.0, 0.9]), 2), [0.9, 0.75, 0.3, 0.45])


def test_models_of_two_vocabularies_hand_over_where_both_have_a_token() -> None:
    # the full model's tokens are "aabb", "c", "cdd"
    theirs = reading([1.0, 5.0, 7.0], [0, 4, 5, 8])
    some = need([0.1, 0.9, 0.1, 0.1], theirs)
    # unsure at 2, where only the specialist has a token: it writes on to 4, and again from 8
    assert handed(some, reserve(0.5), 8) == [((2, 4), (1, 3))]
    found = turn(some, FLOPS, reserve(0.5), 8)
    assert found.nats == 2 + 2 + 5 + 7
    assert found.by_full == pytest.approx(2 / 3)


def test_the_full_model_hands_nothing_over() -> None:
    full = reading([1.0] * 4, [0, 2, 4, 6, 8])
    some = Asked(None, FULL, Need("q", "aabbccdd"), full, full)
    found = turn(some, FLOPS, reserve(-math.inf), 8)
    assert (found.nats, found.by_full, found.own) == (4.0, 1.0, LARGE.answer(3, 4))


def test_all_is_handed_over_below_every_threshold() -> None:
    found = turn(need([0.0] * 4), FLOPS, reserve(-math.inf, None), 8)
    assert (found.nats, found.by_full) == (4.0, 1.0)
    assert found.handed == LARGE.answer(3, 4)
    assert found.own == SMALL.reads(3) + SMALL.head  # it had to look before it knew
