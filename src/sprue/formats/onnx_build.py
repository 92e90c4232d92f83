"""From the nodes of an ONNX graph to steps that run: constants folded, layers made, shapes freed.

The graph is run once, node by node, on an example. What a node's inputs are tells which layer it
is, and how a shape that the file states in numbers follows from the shape that came in: so the
same file serves more examples at once, and fewer channels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.formats.onnx_file import line_of
from sprue.formats.onnx_layers import fill, layer_of, parameters_of, weights_of
from sprue.formats.onnx_plans import planned, swapped
from sprue.formats.onnx_steps import (
    ON_HOST,
    Given,
    Named,
    Source,
    Step,
    Stored,
    needed,
    perform,
    run,
    value_of,
)
from sprue.formats.onnx_values import MOST_HOST, Op, host, is_host, numbers, tensor

Array = NDArray[Any]

_HOST_INPUTS = {  # inputs that are numbers, whatever they are next to
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Pad": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
}


class Builder:
    """Makes steps of nodes, and the submodules and buffers that they need.

    Args:
        module: that gets them.
        constants: name -> array.
        ops: of each node.
        nodes: of the graph, in order.
        outputs: names of the graph's outputs.
    """

    def __init__(
        self,
        module: nn.Module,
        constants: dict[str, Array],
        ops: Sequence[Op],
        nodes: Sequence[Any],
        outputs: Sequence[str],
    ) -> None:
        self._module, self._constants = module, constants
        self._values: dict[str, Any] = {}
        self._makers = {name: (o, n) for o, n in zip(ops, nodes, strict=True) for name in n.output}
        self._stated: dict[str, Array] = {}  # which numbers of a value on the host are constants
        self._buffers: dict[str, str] = {}
        self._batch: Any = None
        self._outputs = outputs
        self._todo = [(o, n) for o, n in zip(ops, nodes, strict=True) if not self._folded(o, n)]
        self._uses = Counter(name for _, n in self._todo for name in n.input)
        self._uses.update(outputs)

    def build(self, inputs: Mapping[str, Tensor]) -> list[Step]:
        """Run on an example.

        Raises:
            InputError: what an operator does not do here.
        """
        self._values.update(inputs)
        self._batch = next((x.shape[0] for x in inputs.values() if x.dim()), None)
        self._joined: dict[int, tuple[Array, str]] = self._biases()
        skipped = {id(n) for _, n in self._todo if id(n) in self._skip}
        steps = [self._step(op, node) for op, node in self._todo if id(node) not in skipped]
        return needed(steps, self._outputs)

    def held(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Those of these values that are constants."""
        return {
            n: torch.from_numpy(np.array(self._constants[n])) for n in names if n in self._constants
        }

    def _folded(self, op: Op, node: Any) -> bool:
        """Whether a node is a constant, which is then known."""
        if op.kind == "Constant":
            self._constants[node.output[0]] = _constant(op)
            return True
        if any(name and name not in self._constants for name in node.input) or not any(node.input):
            return False
        values = [self._folding(op, name) for name in node.input]
        for name, value in zip(node.output, _tuple(run(op, values)), strict=False):
            if name:
                self._constants[name] = _array(value)
        return True

    def _folding(self, op: Op, name: str) -> Any:
        if not name:
            return None
        array = self._constants[name]
        small = array.size <= MOST_HOST and (op.kind in ON_HOST or array.size == 1)
        return host(array) if small else torch.from_numpy(np.array(array))

    def _biases(self) -> dict[int, tuple[Array, str]]:
        """MatMul nodes with a constant matrix -> the vector that is added, and the sum's name."""
        self._skip: set[int] = set()
        adds = {name: n for o, n in self._todo if o.kind == "Add" for name in n.input if name}
        found = {}
        for op, node in self._todo:
            name = node.output[0]
            w = self._constants.get(node.input[1]) if op.kind == "MatMul" else None
            add = adds.get(name)
            if w is None or w.ndim != 2 or add is None or self._uses[name] != 1:
                continue
            other = self._constants.get(next((i for i in add.input if i != name), ""))
            if other is not None and other.shape == w.shape[1:] and name not in self._outputs:
                found[id(node)] = other, add.output[0]
                self._skip.add(id(add))
        return found

    def _step(self, op: Op, node: Any) -> Step:
        found = self._embedding(op, node) or self._layer(op, node) or self._swapped(op, node)
        if found is None:
            op = self._planned(op, node)
            sources = tuple(self._source(op, i, name) for i, name in enumerate(node.input))
            found = Step(op, sources, tuple(node.output))
        values = [value_of(s, self._module, self._values) for s in found.inputs]
        self._note(op, node)
        try:
            given = _tuple(perform(found, self._module, values))
        except InputError:
            raise
        except Exception as error:  # shapes that do not fit
            line = line_of(error)
            raise InputError(f"the node {op.name} ({op.kind}) cannot run: {line}") from error
        self._values.update(zip(found.outputs, given, strict=False))
        return found

    def _layer(self, op: Op, node: Any) -> Step | None:
        if not node.input or node.input[0] in self._constants:
            return None
        arrays = [self._constants.get(name) if name else None for name in node.input]
        if any(name and a is None for name, a in zip(node.input[1:], arrays[1:], strict=True)):
            return None
        bias, output = self._joined.get(id(node), (None, node.output[0]))
        if bias is not None:
            arrays = [*arrays, bias]
        layer = layer_of(op, arrays, self._values[node.input[0]], len(arrays))
        if layer is None:
            if bias is not None:
                raise InputError(f"the node {op.name} multiplies what is no tensor")
            return None
        fill(parameters_of(layer), weights_of(op, arrays, layer), node.input[1])
        name = self._add(layer, node.input[1], op.name or op.kind)
        return Step(op, (Named(node.input[0]),), (output,), name)

    def _embedding(self, op: Op, node: Any) -> Step | None:
        """Rows of a table, picked by what comes in."""
        if op.kind != "Gather" or op.get("axis", 0) or node.input[1] in self._constants:
            return None
        table = self._constants.get(node.input[0])
        indices = self._values[node.input[1]]
        if table is None or table.ndim != 2 or table.dtype.kind != "f" or is_host(indices):
            return None
        layer = nn.Embedding(*table.shape)
        fill(layer, {"weight": table}, node.input[0])
        name = self._add(layer, node.input[0], op.name or op.kind)
        return Step(op, (Named(node.input[1]),), tuple(node.output), name)

    def _swapped(self, op: Op, node: Any) -> Step | None:
        """A transpose that is written as three nodes."""
        turn, turned = self._makers.get(node.input[0] if node.input else "", (op, node))
        first, source = self._makers.get(turned.input[0] if turned.input else "", (op, node))
        kinds = (first.kind, turn.kind, op.kind)
        if kinds != ("Reshape", "Transpose", "Reshape") or source.input[0] in self._constants:
            return None
        if turned.input[0] not in self._values:
            return None
        x, between = self._values[source.input[0]], self._values[turned.input[0]]
        end = run(op, [self._known(name) for name in node.input]).shape
        order = swapped(x.shape, between.shape, turn.get("perm") or [2, 1, 0], end)
        if order is None:
            return None
        made = Op("Transpose", op.opset, {"perm": order}, 1, op.name)
        return Step(made, (Named(source.input[0]),), tuple(node.output))

    def _add(self, layer: nn.Module, weight: str, node: str) -> str:
        """Put a layer into the module, under the name that the network's author gave it."""
        own = weight.removesuffix(".weight") if weight.endswith(".weight") else node
        name = self._free(own)
        self._module.add_module(name, layer.eval())
        return name

    def _free(self, wanted: str) -> str:
        """A name for an attribute that is not taken."""
        base = re.sub(r"\W+", "_", wanted).strip("_") or "layer"
        base = f"n{base}" if base[0].isdigit() else base
        name, count = base, 1
        while hasattr(self._module, name):
            name, count = f"{base}_{count}", count + 1
        return name

    def _source(self, op: Op, i: int, name: str) -> Source:
        if not name:
            return Given(None)
        array = self._constants.get(name)
        if array is None:
            return Named(name)
        numeric = array.size == 1 or i in _HOST_INPUTS.get(op.kind, ())
        if array.dtype.kind != "f":
            numeric = numeric or array.size <= MOST_HOST
        if numeric:
            return Given(host(array))
        made = torch.from_numpy(np.array(array))
        if array.dtype.kind != "f":
            return Given(made)
        if name not in self._buffers:
            self._buffers[name] = self._free(name)
            self._module.register_buffer(self._buffers[name], made)
        return Stored(self._buffers[name])

    def _known(self, name: str) -> Any:
        """A value as it is in the example; None for what is left out."""
        if not name:
            return None
        array = self._constants.get(name)
        return self._values.get(name) if array is None else array

    def _planned(self, op: Op, node: Any) -> Op:
        """With what is known of shapes only here."""
        x = self._known(node.input[0]) if node.input else None
        if op.kind == "Reshape" and isinstance(x, Tensor):
            plan = self._reshaped(op, node, x)
            return replace(op, attributes={**op.attributes, "plan": plan})
        if op.kind == "Squeeze" and len(node.input) < 2 and not op.get("axes") and x is not None:
            over = [d for d, n in enumerate(x.shape) if n == 1]
            return replace(op, attributes={**op.attributes, "axes": over})
        if op.kind == "GatherND" and isinstance(x, Tensor) and self._each_alone(op, node, x):
            return replace(op, attributes={**op.attributes, "each": True})
        return op

    def _each_alone(self, op: Op, node: Any, x: Tensor) -> bool:
        """Whether indices that name the only example of the file mean each of several."""
        indices = self._constants.get(node.input[1])
        if indices is None or self._batch != 1 or x.shape[0] != 1 or op.get("batch_dims", 0):
            return False
        whole = indices.ndim > 1 and indices.shape[0] == 1 and indices.shape[-1] > 1
        return whole and not indices[..., 0].any()

    def _reshaped(self, op: Op, node: Any, x: Tensor) -> list[Any]:
        """How sizes that are stated follow from those of what comes in."""
        told = op.get("shape") if len(node.input) < 2 else numbers(self._known(node.input[1]))
        stated = self._mask(node.input[1]) if len(node.input) > 1 else np.ones(len(told), bool)
        free = [bool(s) and n > 0 for s, n in zip(stated.reshape(-1), told, strict=True)]
        after = list(run(op, [x, host([int(n) for n in told])]).shape)
        return planned(list(x.shape), after, free, self._batch)

    def _mask(self, name: str) -> Array:
        """Which numbers of a shape are constants of the file."""
        value = self._known(name)
        if name in self._constants:
            return np.ones(value.shape, bool)
        count = tuple(value.shape)
        return self._stated.get(name, np.zeros(count, bool))

    def _note(self, op: Op, node: Any) -> None:
        """Keep account of which numbers of a shape are constants."""
        if op.kind == "Concat" and all(is_host(self._known(n)) for n in node.input):
            parts = [self._mask(n) for n in node.input]
            self._stated[node.output[0]] = np.concatenate(parts, op.get("axis"))
        elif op.kind in ("Identity", "Cast") and is_host(self._known(node.input[0])):
            self._stated[node.output[0]] = self._mask(node.input[0])


def _constant(op: Op) -> Array:
    for name, dtype in (
        ("value", None),
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if (value := op.get(name)) is not None:
            return np.asarray(value, dtype)
    raise op.refuse("without numbers")


def _array(value: Any) -> Array:
    return tensor(value).detach().numpy()


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
