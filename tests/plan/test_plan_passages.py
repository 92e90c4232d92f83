"""Passages cut wherever chance falls."""

from __future__ import annotations

import pytest
import torch

from sprue.errors import InputError
from sprue.plan.passages import Passages

STREAMS = (torch.arange(100), 1000 + torch.arange(40), torch.arange(5))


def test_passages_are_runs_of_one_stream() -> None:
    rows = torch.cat(Passages(STREAMS, 10, 64, 64)(3))
    assert rows.shape == (64, 10)
    assert torch.equal(rows - rows[:, :1], torch.arange(10).expand(64, 10))
    assert {int(row[0]) // 1000 for row in rows} == {0, 1}  # of both that are long enough


def test_every_place_is_as_likely() -> None:
    draws = torch.cat([torch.cat(Passages(STREAMS[1:2], 31, 500, 500)(step)) for step in range(8)])
    counts = torch.bincount(draws[:, 0] - 1000, minlength=10)
    assert len(counts) == 10
    assert int(counts.min()) > 320
    assert int(counts.max()) < 480


def test_places_can_lie_apart() -> None:
    rows = torch.cat(Passages(STREAMS, 10, 400, 400, apart=15)(0))
    assert set(rows[:, 0].tolist()) == {0, 15, 30, 45, 60, 75, 90, 1000, 1015, 1030}


def test_batches_hold_so_many_at_once() -> None:
    assert [len(batch) for batch in Passages(STREAMS, 10, 7, 3)(0)] == [3, 3, 1]


def test_the_same_step_gives_the_same_and_another_does_not() -> None:
    some = Passages(STREAMS, 10, 16, 16, seed=4)
    assert torch.equal(some(2)[0], Passages(STREAMS, 10, 16, 16, seed=4)(2)[0])
    assert not torch.equal(some(2)[0], some(3)[0])
    assert not torch.equal(some(2)[0], Passages(STREAMS, 10, 16, 16, seed=5)(2)[0])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    Passages(STREAMS, 10, 16, 16)(0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("streams", [(), (torch.arange(9),)])
def test_a_text_that_is_too_short_is_refused(streams: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(InputError, match="fewer than 10 tokens"):
        Passages(streams, 10, 4, 4)
