"""Second moments, summed in pieces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sprue.plan.moments import Moment, Pair


@pytest.fixture
def batches() -> tuple[Tensor, Tensor]:
    """What the original gets and what is there now, [7 batches, 11 tokens, 5]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 11, 5, generator=generator)
    return x, x + 0.1 * torch.randn(7, 11, 5, generator=generator)


def test_a_moment_is_the_mean_over_all_tokens(batches: tuple[Tensor, Tensor]) -> None:
    x, _ = batches
    moment = Moment()
    for batch in x:
        moment(batch)
    flat = x.reshape(-1, 5).double()
    torch.testing.assert_close(moment.mean(), (flat.T @ flat / len(flat)).float())


def test_batches_of_different_lengths_weigh_by_their_tokens(
    batches: tuple[Tensor, Tensor],
) -> None:
    flat = batches[0].reshape(-1, 5)
    uneven, whole = Moment(), Moment()
    for part in flat.split([3, 50, 24]):
        uneven(part)
    whole(flat)
    torch.testing.assert_close(uneven.mean(), whole.mean())


def test_a_pair_sets_what_is_against_what_was(batches: tuple[Tensor, Tensor]) -> None:
    before, after = batches
    pair = Pair()
    for x, now in zip(before, after, strict=True):
        pair.original(x)
        pair.now(now)
    H, C = pair.means()
    x, y = (t.reshape(-1, 5).double() for t in batches)
    torch.testing.assert_close(H, (y.T @ y / len(y)).float())
    assert C is not None
    torch.testing.assert_close(C, (x.T @ y / len(y)).float())


def test_what_a_tap_lends_is_copied(batches: tuple[Tensor, Tensor]) -> None:
    x, now = (t[0].clone() for t in batches)
    pair, kept = Pair(), x.clone()
    pair.original(x)
    x.zero_()
    pair.now(now)
    _, C = pair.means()
    assert C is not None
    torch.testing.assert_close(C, kept.T @ now / len(now))


def test_without_the_original_there_is_no_second_part(batches: tuple[Tensor, Tensor]) -> None:
    pair = Pair()
    pair.now(batches[1][0])
    assert pair.means()[1] is None
