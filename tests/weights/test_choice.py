"""A choice checks its fields against each other and comes back from its dictionary."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprue.weights.choice import GRIDS, ROTATIONS, Choice


@given(
    st.sampled_from(["trellis", "int"]),
    st.integers(2, 8),
    st.sampled_from([None, 1, 32, 64]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(ROTATIONS),
    st.integers(0, 64),
    st.sampled_from([None, 2, 4, 8, 16]),
)
def test_a_choice_comes_back_from_json(
    grid: Any,
    bits: int,
    group_size: int | None,
    symmetric: bool,
    feedback: bool,
    rotate: Any,
    rank: int,
    factor_bits: int | None,
) -> None:
    choice = Choice(grid, bits, group_size, symmetric, feedback, rotate, rank, factor_bits)
    assert Choice.from_dict(json.loads(json.dumps(choice.as_dict()))) == choice
    assert choice.with_bits(3).as_dict() == {**choice.as_dict(), "bits": 3}
    assert hash(choice) == hash(Choice.from_dict(choice.as_dict()))


def test_missing_fields_take_their_defaults() -> None:
    assert Choice.from_dict({}) == Choice()
    assert Choice.from_dict({"grid": "int", "bits": 3}) == Choice("int", 3)


def test_a_choice_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Choice().bits = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid": "ternary"}, f"grid must be one of {', '.join(GRIDS)}, received 'ternary'"),
        ({"rotate": "auto"}, "rotate must be one of none, in, both, received 'auto'"),
        ({"grid": "int", "bits": 1}, "an integer grid has 2 to 8 bits, received 1"),
        ({"grid": "int", "bits": 2.5}, "an integer grid has 2 to 8 bits, received 2.5"),
        ({"bits": 0}, "above 0 and at most 16 bits, received 0"),
        ({"bits": 17}, "above 0 and at most 16 bits, received 17"),
        ({"state_bits": 8}, r"state_bits must lie in 9 \.\. 16, received 8"),
        ({"group_size": 0}, "group_size must be positive or None, received 0"),
        ({"rank": -1}, "rank must not be negative, received -1"),
        ({"factor_bits": 9}, "factor_bits must be 2 to 8, or 16, received 9"),
        ({"damping": 0.0}, r"damping must be positive, received 0\.0"),
        ({"grid": "none", "rank": None}, "the grid 'none' takes a stated rank"),
        ({"grid": "int", "rank": None}, "the grid 'int' takes a stated rank"),
        ({"gird": "int"}, "unknown field 'gird'; known are grid, bits"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Choice.from_dict(fields)
