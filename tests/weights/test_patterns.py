"""Patterns of zeros: what they allow, and how a mask is stored."""

from __future__ import annotations

from math import ceil, comb, log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sprue.weights import bitpack, patterns

TEXTS = ("unstructured", "1:2", "2:4", "4:8", "5:10", "1:16", "15:16", "2:17", "3x5", "16x1", "1x4")


def _scores(out: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(out, width, generator=torch.Generator().manual_seed(seed))


def _mask(text: str, out: int, width: int, share: float = 0.5, seed: int = 0) -> Tensor:
    return patterns.select(_scores(out, width, seed), patterns.parse(text), share)


def test_a_pattern_is_what_its_text_says() -> None:
    assert patterns.parse("unstructured").sparsity is None
    two, block = patterns.parse("2:4"), patterns.parse("16x1")
    assert (two.keep, two.sparsity, two.block) == ((2, 4), 0.5, (1, 1))
    assert (block.keep, block.sparsity, block.block) == (None, None, (16, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2/4", "unknown pattern '2/4': expected unstructured, N:M such as 2:4"),
        ("", "unknown pattern"),
        ("0:4", "unknown pattern"),
        ("2:4:8", "unknown pattern"),
        ("4:4", "nothing would be zero: N must be below M"),
        ("8:4", "N must be below M"),
        ("x4", "unknown pattern"),
        ("99999x1", "unknown pattern"),
    ],
)
def test_other_texts_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        patterns.parse(text)


@pytest.mark.parametrize("keep", [(1, 2), (2, 4), (4, 8), (5, 10), (2, 17)])
@pytest.mark.parametrize("width", [1, 3, 40, 41, 80])
def test_every_group_keeps_exactly_n(keep: tuple[int, int], width: int) -> None:
    n, m = keep
    mask = _mask(f"{n}:{m}", 6, width)
    for a in range(0, width, m):
        group = mask[:, a : a + m]
        assert (group.sum(1) == ceil(group.shape[1] * n / m)).all()
    expected = patterns.zeros_of(patterns.parse(f"{n}:{m}"), 0.9, width)
    assert 1 - mask.double().mean() == pytest.approx(expected)


@pytest.mark.parametrize("text", ["2:4", "unstructured"])
def test_what_scores_highest_stays(text: str) -> None:
    score = _scores(8, 24)
    mask = patterns.select(score, patterns.parse(text), 0.5)
    groups = score.view(-1, 4) if text == "2:4" else score.view(1, -1)
    kept = mask.view(groups.shape)
    lowest = torch.where(kept, groups, 2.0).min(1).values
    assert (lowest > torch.where(kept, -1.0, groups).max(1).values).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 0.99), st.integers(0, 4))
def test_the_share_is_met_to_the_weight(out: int, width: int, share: float, ties: int) -> None:
    """Also where scores are equal: those that come first stay."""
    score = _scores(out, width)
    if ties:
        score = (score * ties).floor()
    unstructured = patterns.parse("unstructured")
    whole = patterns.select(score, unstructured, share)
    assert int((~whole).sum()) == round(share * out * width)
    rows = patterns.select(score, unstructured, share, by_row=True)
    assert ((~rows).sum(1) == round(share * width)).all()


def test_of_equal_scores_the_first_stay() -> None:
    score = torch.ones(2, 6)
    for text in ("unstructured", "3:6"):
        mask = patterns.select(score, patterns.parse(text), 0.5, by_row=True)
        assert mask.tolist() == [[True] * 3 + [False] * 3] * 2


@pytest.mark.parametrize(("rows", "columns"), [(16, 1), (4, 4), (3, 5), (64, 64)])
def test_blocks_go_together(rows: int, columns: int) -> None:
    """The blocks that are cut at the edges compare by their mean."""
    out, width = 50, 34
    score, text = _scores(out, width), f"{rows}x{columns}"
    mask = patterns.select(score, patterns.parse(text), 0.5)
    means, kept = [], []
    for a in range(0, out, rows):
        for b in range(0, width, columns):
            block = mask[a : a + rows, b : b + columns]
            assert block.all() or not block.any()
            kept.append(bool(block.any()))
            means.append(float(score[a : a + rows, b : b + columns].mean()))
    assert kept.count(False) == round(0.5 * len(kept))
    low = [m for m, k in zip(means, kept, strict=True) if not k]
    high = [m for m, k in zip(means, kept, strict=True) if k]
    assert max(low, default=0) <= min(high, default=1) + 1e-6


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(TEXTS),
    st.integers(1, 40),
    st.integers(1, 70),
    st.floats(0, 0.95),
    st.integers(0, 9),
)
def test_masks_come_back(text: str, out: int, width: int, share: float, seed: int) -> None:
    pattern = patterns.parse(text)
    mask = _mask(text, out, width, share, seed)
    meta, stored = patterns.pack(mask, pattern)
    assert meta == {"pattern": text, "kept": int(mask.sum())}
    assert stored.dtype == torch.uint8
    assert 8 * len(stored) == patterns.stored_bits((out, width), pattern)
    assert torch.equal(patterns.unpack(meta, stored, (out, width)), mask)


@pytest.mark.parametrize(("text", "bits"), [("2:4", 0.75), ("5:10", 0.8), ("4:8", 0.875)])
def test_a_group_takes_the_bits_of_its_combinations(text: str, bits: float) -> None:
    n, m = patterns.parse(text).keep or (0, 0)
    assert ceil(log2(comb(m, n))) / m == bits
    shape = (64, 8 * m)
    assert patterns.stored_bits(shape, patterns.parse(text)) == bits * 64 * 8 * m


def test_one_bit_a_weight_where_groups_are_not_whole() -> None:
    assert patterns.stored_bits((8, 42), patterns.parse("2:4")) == 8 * bitpack.packed_bytes(336, 1)
    assert patterns.stored_bits((8, 40), patterns.parse("4x4")) == 8 * bitpack.packed_bytes(20, 1)


def test_every_combination_has_a_number_of_its_own() -> None:
    """All 70 masks of 4:8 at once, each in one group."""
    masks = patterns._masks(4, 8)
    assert len(masks) == comb(8, 4)
    assert len({tuple(m.tolist()) for m in masks}) == 70
    meta, stored = patterns.pack(masks, patterns.parse("4:8"))
    assert torch.equal(patterns.unpack(meta, stored, (70, 8)), masks)


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
