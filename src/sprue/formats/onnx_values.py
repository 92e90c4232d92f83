"""Values while an ONNX graph runs: tensors, and numbers on the host.

Shapes and what is calculated from them are NumPy arrays of objects: Python numbers, or the symbols
of `torch.export`, which so sees how a size follows from another.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprue.errors import InputError

Host = NDArray[np.object_]
MOST_HOST = 256  # numbers of a constant that is kept on the host

_FLOAT = torch.float32
DTYPES = {  # onnx.TensorProto.DataType -> of the tensors here
    1: _FLOAT,
    2: torch.uint8,
    3: torch.int8,
    4: torch.int32,  # uint16
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: _FLOAT,
    11: _FLOAT,
    12: torch.int64,  # uint32
    13: torch.int64,  # uint64
    16: _FLOAT,
}


@dataclass(frozen=True)
class Op:
    """One node: what is done.

    Attributes:
        kind: the operator.
        opset: whose version of it is meant.
        attributes: name -> number, text, list of numbers, or array.
        outputs: how many it has.
        name: of the node, for messages.
    """

    kind: str
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    name: str = ""

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def refuse(self, what: str) -> InputError:
        """An error that says what of this operator is not known here."""
        return InputError(f"the operator {self.kind} ({self.name}) {what}, which is not known here")


def host(numbers: Any, shape: Sequence[int] | None = None) -> Host:
    """An array of objects; symbols are left alone."""
    if isinstance(numbers, np.ndarray):
        return numbers.astype(object)
    flat = list(numbers) if isinstance(numbers, (list, tuple)) else [numbers]
    found = np.empty(len(flat), object)
    for i, number in enumerate(flat):
        found[i] = number
    if shape is None:
        shape = (len(flat),) if isinstance(numbers, (list, tuple)) else ()
    return found.reshape(tuple(shape))


def is_host(value: Any) -> bool:
    """Whether a value is numbers on the host."""
    return isinstance(value, np.ndarray)


def numbers(value: Any) -> list[Any]:
    """A value as a flat list of numbers."""
    if isinstance(value, Tensor):
        return list(value.reshape(-1).tolist())
    return list(value.reshape(-1))


def number(value: Any) -> Any:
    """A value of one element."""
    return numbers(value)[0]


def tensor(value: Any) -> Tensor:
    """A value as a tensor: float32, int64 or bool."""
    if isinstance(value, Tensor):
        return value
    flat = list(value.reshape(-1))
    dtype = _dtype_of(flat)
    if any(isinstance(n, (torch.SymInt, torch.SymFloat, torch.SymBool)) for n in flat):
        parts = [torch.full((), n, dtype=dtype) for n in flat]
        return torch.stack(parts).reshape(value.shape)
    return torch.tensor(flat, dtype=dtype).reshape(value.shape)


def _dtype_of(flat: Sequence[Any]) -> torch.dtype:
    if any(isinstance(n, (float, torch.SymFloat)) for n in flat):
        return _FLOAT
    if flat and all(isinstance(n, (bool, np.bool_, torch.SymBool)) for n in flat):
        return torch.bool
    return torch.int64


def operand(value: Any, other: Any) -> Any:
    """A number where that is broadcast to the other as a tensor would be; else a tensor."""
    if is_host(value) and value.size == 1 and value.ndim <= other.ndim:
        return value.reshape(-1)[0]
    return tensor(value)


def _divided(a: Any, b: Any) -> Any:
    """Integers are cut towards zero."""
    if isinstance(a, (float, torch.SymFloat)) or isinstance(b, (float, torch.SymFloat)):
        return a / b
    if isinstance(a, int) and isinstance(b, int) and (a < 0) != (b < 0):
        return -(-a // b)
    return a // b


def as_int(n: Any) -> Any:
    """Cut to an integer."""
    if isinstance(n, torch.SymFloat):
        return torch.sym_int(n)  # type: ignore[no-untyped-call]
    return n if isinstance(n, torch.SymInt) else int(n)


def as_float(n: Any) -> Any:
    """As a floating point number."""
    if isinstance(n, (torch.SymInt, torch.SymFloat)):
        return torch.sym_float(n)  # type: ignore[no-untyped-call]
    return float(n)


def as_bool(n: Any) -> Any:
    """As a truth value."""
    return n if isinstance(n, torch.SymBool) else n != 0


def _each(function: Callable[..., Any], count: int) -> Callable[..., Host]:
    made = np.frompyfunc(function, count, 1)

    def run(*values: Host) -> Host:
        found = made(*values)
        return found if isinstance(found, np.ndarray) else host(found)

    return run


def _cast(op: Op, x: Host) -> Host:
    to = DTYPES.get(int(op.get("to")), _FLOAT)
    turn = as_bool if to == torch.bool else as_float if to == _FLOAT else as_int
    return _each(turn, 1)(x)


def _many(function: Callable[[Any, Any], Any]) -> Callable[..., Host]:
    def run(op: Op, *values: Host) -> Host:
        found = values[0]
        for value in values[1:]:
            found = _each(function, 2)(found, value)
        return found

    return run


def _one(function: Callable[[Any], Any]) -> Callable[..., Host]:
    return lambda op, x: _each(function, 1)(x)


def _sqrt(n: Any) -> Any:
    return torch.sym_sqrt(n) if isinstance(n, torch.SymFloat) else math.sqrt(n)


def _power(a: Any, b: Any) -> Any:
    return a**b


def _where(op: Op, c: Host, a: Host, b: Host) -> Host:
    return _each(lambda c, a, b: a if c else b, 3)(c, a, b)


def _floor(n: Any) -> Any:
    return as_float(math.floor(n))


def _ceil(n: Any) -> Any:
    return as_float(math.ceil(n))


def _mod(op: Op, a: Host, b: Host) -> Host:
    return _each(math.fmod if op.get("fmod", 0) else operator.mod, 2)(a, b)


HOST: dict[str, Callable[..., Host]] = {
    "Add": _many(operator.add),
    "Sub": _many(operator.sub),
    "Mul": _many(operator.mul),
    "Div": _many(_divided),
    "Mod": _mod,
    "Pow": _many(_power),
    "Max": _many(torch.sym_max),
    "Min": _many(torch.sym_min),
    "Equal": _many(operator.eq),
    "Less": _many(operator.lt),
    "LessOrEqual": _many(operator.le),
    "Greater": _many(operator.gt),
    "GreaterOrEqual": _many(operator.ge),
    "And": _many(lambda a, b: a and b),
    "Or": _many(lambda a, b: a or b),
    "Not": _one(operator.not_),
    "Neg": _one(operator.neg),
    "Abs": _one(abs),
    "Sqrt": _one(_sqrt),
    "Floor": _one(_floor),
    "Ceil": _one(_ceil),
    "Cast": _cast,
    "Where": _where,
}
