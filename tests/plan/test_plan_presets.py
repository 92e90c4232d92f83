"""Presets: known methods at any budget, everything stored counted."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sprue import cli_compress
from sprue.errors import BudgetError, InputError
from sprue.plan import presets
from sprue.weights import coding, factors
from sprue.weights.choice import Choice
from sprue.weights.grids import integer

SIDES = st.integers(8, 700)
SHAPES = st.dictionaries(st.sampled_from("abcdef"), st.tuples(SIDES, SIDES), min_size=1, max_size=6)


def stored(shape: tuple[int, int], choice: Choice) -> int:
    """Bits of everything that is stored, by the grids' own count."""
    if choice.grid == "int":
        return integer.stored_bits(shape, int(choice.bits), choice.group_size, choice.symmetric)
    assert choice.grid == "none"
    assert choice.rank is not None
    assert choice.factor_bits is not None
    return factors.stored_bits(shape, choice.rank, choice.factor_bits)


@pytest.mark.parametrize("preset", ["rtn", "gptq", "svd"])
@settings(max_examples=60, deadline=None)
@given(shapes=SHAPES, bits=st.floats(0.5, 16))
def test_no_more_is_stored_than_was_asked(
    preset: str, shapes: dict[str, tuple[int, int]], bits: float
) -> None:
    try:
        chosen = presets.choices(preset, shapes, bits)
    except BudgetError:
        return
    assert list(chosen) == list(shapes)
    taken = sum(stored(shapes[name], choice) for name, choice in chosen.items())
    assert taken <= bits * sum(prod(shape) for shape in shapes.values())


@settings(max_examples=30, deadline=None)
@given(shapes=SHAPES, bits=st.floats(1.5, 8))
def test_caldera_leaves_its_grid_at_least_half_a_bit(
    shapes: dict[str, tuple[int, int]], bits: float
) -> None:
    try:
        chosen = presets.choices("caldera", shapes, bits)
    except BudgetError:
        return
    for name, choice in chosen.items():
        assert choice.rank
        assert choice.factor_bits
        taken = factors.stored_bits(shapes[name], choice.rank, choice.factor_bits)
        left = bits - taken / prod(shapes[name]) - coding.side_bits(shapes[name])
        assert choice.bits == bits
        assert left >= 0.5


@pytest.mark.parametrize("bits", [2.3, 3.0, 4.0, 5.7])
def test_integers_fill_a_rate_between_two_grids(bits: float) -> None:
    shapes = {str(i): (256, 256) for i in range(40)}
    chosen = presets.choices("gptq", shapes, bits)
    taken = sum(stored(shapes[name], choice) for name, choice in chosen.items())
    assert 0.99 * bits < taken / (40 * 256 * 256) <= bits


def test_feedback_is_what_tells_gptq_from_rounding() -> None:
    shapes = {"a": (64, 64)}
    rtn, gptq = (presets.choices(name, shapes, 4.3)["a"] for name in ("rtn", "gptq"))
    assert (rtn.feedback, gptq.feedback) == (False, True)
    assert (rtn.bits, rtn.group_size) == (gptq.bits, gptq.group_size)


def test_groups_never_exceed_a_row() -> None:
    for name, choice in presets.choices("rtn", {"a": (512, 40), "b": (512, 8)}, 6.0).items():
        assert choice.group_size in ((32, None) if name == "a" else (None,))


@pytest.mark.parametrize(
    ("preset", "bits", "words"),
    [
        ("rtn", 2.0, r"at least 2\.\d+ bits a weight here, scales included; 2 were given"),
        ("gptq", 1.0, "leave out --preset"),
        ("svd", 0.001, r"a \(64 x 96\): one component of a factor takes"),
        ("caldera", 0.5, r"a \(64 x 96\) takes at least \d\.\d+ bits a weight"),
    ],
)
def test_too_few_bits_are_refused(preset: str, bits: float, words: str) -> None:
    with pytest.raises(BudgetError, match=words):
        presets.choices(preset, {"a": (64, 96)}, bits)


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(InputError, match="unknown preset 'awq': known are rtn, gptq, svd, caldera"):
        presets.choices("awq", {"a": (64, 64)}, 4)


def test_the_command_line_offers_the_same() -> None:
    assert (*presets.PRESETS, *presets.PRUNING) == cli_compress.PRESETS


@pytest.mark.parametrize("group", [32, 128, 1024])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_the_predicted_rounding_error_is_what_rounding_makes(bits: int, group: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    W = torch.randn(128, 1024, generator=generator)
    meta, tensors = integer.round_to_nearest(W, bits, group, True)
    error = float((W - integer.dense(meta, tensors)).square().mean())
    # a model of normal numbers and one clipping point; the fit finds each group's own
    assert 0.7 * error < presets.rounding(bits, group) < 1.4 * error
