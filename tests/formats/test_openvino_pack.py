"""Weights of 8 bits on coarser grids, stored with fewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sprue.formats.openvino_pack import pack, packed_of

RNG = np.random.default_rng(0)
ROWS, COLUMNS = 32, 160


def on_grid(levels: int, zero: int, shape: tuple[int, ...] = (ROWS, COLUMNS)) -> np.ndarray:
    """Codes of 8 bits, symmetric for each row, of weights that lie on a coarser grid."""
    codes = RNG.integers(0, levels, shape)
    codes.reshape(shape[0], -1)[:, :2] = 0, levels - 1
    weights = (codes - zero).astype(np.float64)
    peak = np.abs(weights).reshape(shape[0], -1).max(1).reshape(-1, *[1] * (len(shape) - 1))
    found: np.ndarray = np.rint(weights * 127 / peak).astype(np.int8)
    return found


SCALE = RNG.uniform(0.5, 2, (ROWS, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("levels", "zero", "bits"), [(16, 8, 4), (16, 0, 4), (16, 15, 4), (64, 31, 6), (64, 20, 6)]
)
def test_the_coarsest_grid_is_found_and_holds_the_same_weights(
    levels: int, zero: int, bits: int
) -> None:
    codes = on_grid(levels, zero)
    packed = packed_of(codes, SCALE)
    assert packed is not None
    assert packed.bits == bits
    assert packed.codes.max() < levels
    again = packed.steps * (packed.codes - packed.zeros.astype(np.float64))
    assert np.abs(again - codes).max() <= 0.51  # the rounding that 8 bits had added


@pytest.mark.parametrize(("levels", "bits"), [(16, 4), (64, 6)])
@pytest.mark.parametrize("peak", [63.0, 63.5, 64.0])
def test_values_cut_off_at_7_bits_lie_on_the_grid_still(
    levels: int, bits: int, peak: float
) -> None:
    weights = RNG.integers(0, levels, (ROWS, COLUMNS)) - levels // 2
    weights[:, :2] = -levels // 2, levels // 2 - 1
    exact = weights * peak / (levels // 2)
    codes = np.clip(np.rint(exact), -63, 63).astype(np.int8)
    packed = packed_of(codes, SCALE)
    assert packed is not None
    assert packed.bits == bits
    again = packed.steps * (packed.codes - packed.zeros.astype(np.float64))
    assert np.abs(again - exact).max() <= 0.51


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_lie_along_the_dimension_that_scales_do(axis: int) -> None:
    codes = np.moveaxis(on_grid(16, 7), 0, axis)
    packed = packed_of(codes, np.moveaxis(SCALE, 0, axis))
    assert packed is not None
    again = packed.steps * (packed.codes - packed.zeros.astype(np.float64))
    assert np.abs(again - codes).max() <= 0.51


def test_what_needs_8_bits_or_would_gain_nothing_stays() -> None:
    assert packed_of(RNG.integers(-127, 128, (ROWS, COLUMNS)).astype(np.int8), SCALE) is None
    assert packed_of(RNG.integers(-63, 64, (ROWS, COLUMNS)).astype(np.int8), SCALE) is None
    assert packed_of(on_grid(16, 8, (4, 40)), SCALE[:4]) is None  # less than its own text
    assert packed_of(on_grid(16, 8), np.ones((ROWS, COLUMNS), np.float32)) is None


def test_rows_of_zeros_are_no_hindrance() -> None:
    codes = on_grid(16, 8)
    codes[3] = 0
    packed = packed_of(codes, SCALE)
    assert packed is not None
    assert packed.bits == 4
    assert (packed.codes[3] == packed.zeros[3]).all()


def model_of(codes: np.ndarray) -> Any:
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    from openvino import opset13 as ops

    x = ops.parameter([1, COLUMNS], np.float32, name="x")
    wide = ops.convert(ops.constant(codes), "f32")
    W = ops.multiply(wide, ops.constant(SCALE))
    return openvino.Model([ops.matmul(x, W, False, True)], [x])


def test_a_file_becomes_smaller_and_says_the_same(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    x = RNG.standard_normal((1, COLUMNS)).astype(np.float32)
    outputs, sizes = [], []
    for name in ("plain", "packed"):
        model = model_of(on_grid_once)
        if name == "packed":
            assert pack(model) == 1
        openvino.save_model(model, str(tmp_path / f"{name}.xml"), compress_to_fp16=False)
        core = openvino.Core()
        core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs.append(core.compile_model(str(tmp_path / f"{name}.xml"), "CPU")(x)[0])
        sizes.append((tmp_path / f"{name}.bin").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    bound = 0.51 * float(SCALE.max()) * float(np.abs(x).sum())
    assert np.abs(outputs[0] - outputs[1]).max() < bound
    assert np.corrcoef(outputs[0][0], outputs[1][0])[0, 1] > 0.9999


on_grid_once = on_grid(16, 8)


def test_weights_that_need_8_bits_are_left_alone() -> None:
    codes = RNG.integers(-127, 128, (ROWS, COLUMNS)).astype(np.int8)
    model = model_of(codes)
    assert pack(model) == 0
    kinds = {op.get_element_type().get_type_name() for op in model.get_ops()}
    assert kinds == {"f32", "i8"}
