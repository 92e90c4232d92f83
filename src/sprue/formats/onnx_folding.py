"""Images that are taken apart before a convolution: the same by one convolution with strides.

YOLOX and the first YOLOv5 put every second pixel into channels of their own (Focus), by slices that
engines copy slowly. A convolution with a larger kernel and stride reads the image itself: the same
sums, in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Constants = Mapping[str, Any]  # name -> onnx.TensorProto
Pace = tuple[int, int]  # start and step along a dimension

_ENDLESS = 2**31 - 1
_HEIGHT, _WIDTH = 2, 3


@dataclass(frozen=True)
class _Taken:
    """What slices take from a tensor.

    Attributes:
        source: name of the tensor.
        paces: of dimension 2 and 3, those that are sliced.
    """

    source: str
    paces: Mapping[int, Pace] = field(default_factory=dict)

    def pace(self, dim: int) -> Pace:
        """Start and step."""
        return self.paces.get(dim, (0, 1))


def fold_slices(model: Any) -> int:
    """Convolutions of joined slices of one tensor become convolutions of that tensor, in place.

    Args:
        model: onnx.ModelProto.

    Returns:
        How many.
    """
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found = 0
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] not in constants:
            continue
        parts = _parts(makers.get(node.input[0]), makers, constants)
        if parts and all(_alone(graph, name) for name in node.input[:2]):
            found += _fold(node, parts, constants[node.input[1]])
    if found:
        _sweep(graph)
    return found


def _alone(graph: Any, name: str) -> bool:
    """Whether one node alone reads a tensor."""
    readers = sum(list(node.input).count(name) for node in graph.node)
    return readers == 1 and all(output.name != name for output in graph.output)


def _parts(join: Any, makers: Mapping[str, Any], constants: Constants) -> list[_Taken]:
    """What is joined in channels, where all of it is taken from one tensor at one pace."""
    if join is None or join.op_type != "Concat" or _attributes(join).get("axis") != 1:
        return []
    parts = [_taken(name, makers, constants) for name in join.input]
    sources = {part.source for part in parts}
    steps = {(part.pace(_HEIGHT)[1], part.pace(_WIDTH)[1]) for part in parts}
    if len(sources) != 1 or len(steps) != 1 or steps == {(1, 1)}:
        return []
    for dim, step in zip((_HEIGHT, _WIDTH), next(iter(steps)), strict=True):
        if {part.pace(dim)[0] for part in parts} != set(range(step)):
            return []  # the last of them says that the size is a multiple of the step
    return parts


def _taken(name: str, makers: Mapping[str, Any], constants: Constants) -> _Taken:
    """Through slices back to where they take from."""
    node = makers.get(name)
    if node is None or node.op_type != "Slice":
        return _Taken(name)
    sliced = _sliced(node, constants)
    if sliced is None:
        return _Taken(name)
    before = _taken(node.input[0], makers, constants)
    if set(before.paces) & set(sliced):
        return _Taken(name)
    return _Taken(before.source, {**before.paces, **sliced})


def _sliced(node: Any, constants: Constants) -> dict[int, Pace] | None:
    """Dimension -> start and step; None for slices that end early, or of other dimensions."""
    if len(node.input) < 4 or any(name not in constants for name in node.input[1:]):
        return None
    starts, ends, axes, *more = (_array(constants[name]).tolist() for name in node.input[1:])
    steps = more[0] if more else [1] * len(axes)
    found = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis not in (_HEIGHT, _WIDTH) or end < _ENDLESS or not 0 <= start < step:
            return None
        found[axis] = (start, step)
    return found


def _fold(node: Any, parts: list[_Taken], tensor: Any) -> bool:
    """Rewrite a convolution and its weight, both read by nothing else; whether that could be."""
    import onnx

    told, weight = _attributes(node), _array(tensor)
    plain = told.get("group", 1) == 1 and set(told.get("dilations", [1, 1])) == {1}
    if weight.ndim != 4 or not plain or told.get("auto_pad", b"NOTSET") != b"NOTSET":
        return False
    channels, rest = divmod(weight.shape[1], len(parts))
    if rest:
        return False
    down, right = parts[0].pace(_HEIGHT)[1], parts[0].pace(_WIDTH)[1]
    height, width = weight.shape[2:]
    new = np.zeros((len(weight), channels, down * height, right * width), weight.dtype)
    for i, part in enumerate(parts):
        top, left = part.pace(_HEIGHT)[0], part.pace(_WIDTH)[0]
        new[:, :, top::down, left::right] += weight[:, i * channels : (i + 1) * channels]
    scale = (down, right)
    strides = [a * s for a, s in zip(told.get("strides", [1, 1]), scale, strict=True)]
    pads = [a * s for a, s in zip(told.get("pads", [0] * 4), scale * 2, strict=True)]
    values = {"strides": strides, "pads": pads, "kernel_shape": list(new.shape[2:])}
    stay = [a for a in node.attribute if a.name not in values]
    del node.attribute[:]
    node.attribute.extend(stay)
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in values.items())
    tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
    node.input[0] = parts[0].source
    return True


def _sweep(graph: Any) -> None:
    """Nodes and constants that nothing reads any more go."""
    while True:
        read = {name for node in graph.node for name in node.input}
        read |= {output.name for output in graph.output}
        dead = [node for node in graph.node if not read & set(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)


def _array(tensor: Any) -> NDArray[Any]:
    import onnx

    found: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    return found


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
