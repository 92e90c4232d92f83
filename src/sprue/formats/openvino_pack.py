"""Weights of 8 bits that lie on a coarser grid, stored with as few bits as that grid has.

The engine widens them to 8 bits once, when it loads the file, and computes as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.runtime import engines
from sprue.structure.coarse import BITS

_WORTH = 1024  # bytes that packing must save: three more operations take half of that as text
_SEVEN = 63  # largest code of 7 bits
_BEYOND = (0.0, 0.5, 1.0)  # steps of 8 bits that a largest value may have lost there
_FIT = 0.51  # steps of 8 bits by which a value may lie off the coarser grid


@dataclass(frozen=True)
class Packed:
    """Weights on a grid: step (code - zero), in steps of 8 bits.

    Attributes:
        bits: of a code.
        codes: uint8, of the shape of the weights.
        zeros: int8, one for each row, shaped to broadcast.
        steps: float64, of the same shape.
    """

    bits: int
    codes: NDArray[np.uint8]
    zeros: NDArray[np.int8]
    steps: NDArray[np.float64]


def pack(model: Any) -> int:
    """Store what lies on a coarser grid so; how many weights now are.

    Args:
        model: of OpenVINO, with weights Constant int8, Convert, Multiply; is changed.
    """
    count = 0
    for op in model.get_ordered_ops():
        found = _weights(op)
        if found is None:
            continue
        codes, convert, multiply, scale = found
        packed = packed_of(codes.data, np.asarray(scale.data))
        if packed is not None:
            _replace(packed, convert, multiply, scale)
            count += 1
    return count


def packed_of(codes: NDArray[np.int8], scale: NDArray[Any]) -> Packed | None:
    """The coarsest grid that these lie on; None: they need all 8 bits.

    Args:
        codes: of any shape.
        scale: one for each row: broadcasts to the codes, and tells them apart.
    """
    axis = max(range(scale.ndim), key=lambda d: scale.shape[d], default=0)
    if scale.ndim != codes.ndim or scale.size != scale.shape[axis]:
        return None
    rows = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1).astype(np.float64)
    if scale.size == 1:
        rows = rows.reshape(1, -1)
    for bits in BITS:
        if codes.size * (8 - bits) / 8 < _WORTH:
            continue
        steps = _steps(rows, 2**bits - 1)
        if steps is None:
            continue
        levels = np.rint(rows / steps[:, None])
        zeros = levels.min(1)
        shape = [scale.shape[d] if d == axis else 1 for d in range(codes.ndim)]
        there = np.moveaxis(codes, axis, 0).shape if scale.size > 1 else (1, *codes.shape)
        found = (levels - zeros[:, None]).reshape(there)
        found = np.moveaxis(found, 0, axis) if scale.size > 1 else found[0]
        return Packed(
            bits,
            np.ascontiguousarray(found, np.uint8),
            (-zeros).astype(np.int8).reshape(shape),
            steps.reshape(shape),
        )
    return None


def _steps(rows: NDArray[np.float64], most: int) -> NDArray[np.float64] | None:
    """Of each row, such that at most so many steps lie between its ends; None: some have none.

    The largest value of a row is a whole number of steps from zero, as the smallest step is 8
    bits' own; where it was cut off at the largest code of 7 bits it may have been up to one more.
    """
    peak = np.abs(rows).max(1)
    ends, cut = np.abs(rows) == peak[:, None], peak == _SEVEN
    best, error = np.ones(len(rows)), np.full(len(rows), np.inf)
    for beyond in _BEYOND if cut.any() else _BEYOND[:1]:
        for count in range(1, most + 1):
            step = np.where(peak > 0, (peak + beyond) / count, 1.0)
            levels = np.rint(rows / step[:, None])
            off = np.abs(rows - levels * step[:, None])
            off = np.where(ends, np.maximum(0.0, off - beyond), off).max(1)
            off[(levels.max(1) - levels.min(1) > most) | (step < 1)] = np.inf
            if beyond:
                off[~cut] = np.inf
            better = off < error - 1e-9
            best[better], error[better] = step[better], off[better]
    return best if bool((error <= _FIT).all()) else None


def is_codes(op: Any) -> bool:
    """Whether an operation is weights of 8 bits; the zero points of packed ones are none."""
    if op.get_type_name() != "Constant" or op.get_element_type().get_type_name() != "i8":
        return False
    readers = op.output(0).get_target_inputs()
    return all(reader.get_node().get_type_name() != "Subtract" for reader in readers)


def _weights(op: Any) -> tuple[Any, Any, Any, Any] | None:
    """(codes, Convert, Multiply, scale) where an operation is the codes of weights of 8 bits."""
    if not is_codes(op):
        return None
    convert = _only_reader(op)
    if convert is None or convert.get_type_name() != "Convert":
        return None
    multiply = _only_reader(convert)
    if multiply is None or multiply.get_type_name() != "Multiply":
        return None
    scale = multiply.input_value(1).get_node()
    return (op, convert, multiply, scale) if scale.get_type_name() == "Constant" else None


def _only_reader(op: Any) -> Any:
    readers = list(op.output(0).get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None


def _replace(packed: Packed, convert: Any, multiply: Any, scale: Any) -> None:
    with engines.unreported():
        import openvino
        from openvino import opset13
    kind = getattr(openvino.Type, f"u{packed.bits}")
    shape = openvino.Shape(list(packed.codes.shape))
    stored = openvino.op.Constant(kind, shape, packed.codes.flatten().tolist())
    wide = opset13.convert(stored, "i8")
    centered = opset13.subtract(wide, opset13.constant(packed.zeros))
    again = opset13.convert(centered, "f32")
    convert.output(0).replace(again.output(0))
    steps = np.asarray(scale.data).astype(np.float64) * packed.steps
    multiply.input(1).replace_source_output(opset13.constant(steps.astype(np.float32)).output(0))
