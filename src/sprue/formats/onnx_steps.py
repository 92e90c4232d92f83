"""Steps of an ONNX graph: what each does, with what, and how it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sprue.formats.onnx_math import MATH
from sprue.formats.onnx_shapes import HOSTED, SHAPES
from sprue.formats.onnx_values import HOST, Op, is_host, tensor
from sprue.formats.onnx_windows import WINDOWS

FUNCTIONS = {**MATH, **SHAPES, **WINDOWS}
KNOWN = {*FUNCTIONS, "Constant"}
_HARD_SWISH_SINCE = 14  # opset
ON_HOST = {**{kind: FUNCTIONS[kind] for kind in HOSTED}, **HOST}


@dataclass(frozen=True)
class Named:
    """A value that an earlier step gave."""

    name: str


@dataclass(frozen=True)
class Stored:
    """A buffer of the module."""

    name: str


@dataclass(frozen=True)
class Given:
    """A constant: numbers, or a tensor of integers; None for what is left out."""

    value: Any


Source = Named | Stored | Given


@dataclass(frozen=True)
class Step:
    """One node.

    Attributes:
        op: what is done, where it is no layer.
        inputs: where its inputs come from.
        outputs: names of what it gives.
        layer: the submodule that does it.
        done: names that nothing reads any more.
    """

    op: Op
    inputs: tuple[Source, ...]
    outputs: tuple[str, ...]
    layer: str | None = None
    done: tuple[str, ...] = ()


def run(op: Op, values: Sequence[Any]) -> Any:
    """What an operator gives: on the host where all of its inputs are there."""
    if op.kind in ON_HOST and all(v is None or is_host(v) for v in values):
        return ON_HOST[op.kind](op, *values)
    return FUNCTIONS[op.kind](op, *values)


def value_of(source: Source, module: nn.Module, values: Mapping[str, Any]) -> Any:
    """What a source gives now."""
    match source:
        case Named():
            return values[source.name]
        case Stored():
            return getattr(module, source.name)
    return source.value


def perform(step: Step, module: nn.Module, values: Sequence[Any]) -> Any:
    """What a step gives."""
    if step.layer is not None:
        return module.get_submodule(step.layer)(tensor(values[0]))
    return run(step.op, values)


def needed(steps: Sequence[Step], outputs: Sequence[str]) -> list[Step]:
    """Those that the outputs follow from, with the names that are read for the last time."""
    seen = set(outputs)
    found = []
    for step in reversed(steps):
        if seen.isdisjoint(step.outputs):
            continue
        mine = [s.name for s in step.inputs if isinstance(s, Named)] + list(step.outputs)
        done = tuple(dict.fromkeys(name for name in mine if name and name not in seen))
        seen.update(mine)
        found.append(replace(step, done=done))
    return found[::-1]


def hard_swished(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[list[Step], int]:
    """The steps with HardSwish in the place of each SiLU, and how many there were.

    A SiLU is Swish, or a product of something with its own Sigmoid.
    """
    gates = {
        step.outputs[0]: step.inputs[0]
        for step in steps
        if step.layer is None and step.op.kind == "Sigmoid"
    }
    found, count = [], 0
    for step in steps:
        given = None if step.layer is not None else _of_silu(step, gates)
        if given is not None:
            op = Op("HardSwish", _HARD_SWISH_SINCE, {}, 1, step.op.name)
            step, count = replace(step, op=op, inputs=(given,)), count + 1
        found.append(step)
    return needed(found, outputs), count


def _of_silu(step: Step, gates: Mapping[str, Source]) -> Source | None:
    """What a step gives the SiLU of; None: it is none."""
    if step.op.kind == "Swish" and step.op.get("alpha", 1.0) == 1.0:
        return step.inputs[0]
    if step.op.kind != "Mul":
        return None
    for given, gate in (step.inputs, step.inputs[::-1]):
        if isinstance(gate, Named) and gates.get(gate.name) == given and isinstance(given, Named):
            return given
    return None
