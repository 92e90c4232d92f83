"""Sizes as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprue.errors import BudgetError, InputError
from sprue.plan.budget import parse_size

ORIGINAL = 14_791_168


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("30%", 4_437_350),
        ("30 %", 4_437_350),
        ("0.5%", 73_955),
        ("100%", ORIGINAL),
        ("1964544", 1_964_544),
        ("1,964,544", 1_964_544),
        ("1_964_544", 1_964_544),
        (" 2MB ", 2_000_000),
        ("2 mb", 2_000_000),
        ("1.5MiB", 1_572_864),
        (".5MB", 500_000),
        ("700kB", 700_000),
        ("700KiB", 716_800),
        ("0.01GB", 10_000_000),
        ("0.001GiB", 1_073_741),
        ("12b", 12),
    ],
)
def test_what_is_understood(text: str, size: int) -> None:
    assert parse_size(text, ORIGINAL) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "%", "MB", "small", "-5", "+5", "1e6", "0x10", "nan", "inf", "2TB", "3 0%", "1,5MB",
     "1,96", "30%%", "2MBs", "½", "٣%", "9" * 5000],
)  # fmt: skip
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(InputError, match="not understood: give a share"):
        parse_size(text, ORIGINAL)


@pytest.mark.parametrize("text", ["0", "0%", "0.4", "101%", "200%", "1GB", "14791169", "9" * 18])
def test_what_no_result_can_have(text: str) -> None:
    with pytest.raises(BudgetError, match="above 0 and at most the original's 14,791,168 bytes"):
        parse_size(text, ORIGINAL)


@given(st.integers(1, 2**50), st.integers(1, 100))
def test_a_share_is_rounded_down(original: int, percent: int) -> None:
    if original * percent >= 100:
        assert parse_size(f"{percent}%", original) == original * percent // 100


@given(st.integers(1, 2**50))
def test_bytes_are_exact(original: int) -> None:
    assert parse_size(str(original), original) == original
    assert parse_size("100%", original) == original
