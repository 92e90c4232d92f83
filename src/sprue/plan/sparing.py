"""Which layers suffer most in 8 bits: the first to stay in float32 where too little is kept.

Each layer alone gets its weights rounded for each output channel, and its inputs rounded within the
range that they have; what that does to the network's answers is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sprue.structure.readings import Answers, first, hooked

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_PRODUCTS = ("Conv", "Gemm", "MatMul")


def most_sensitive(
    module: nn.Module, batch: tuple[Any, ...], answers: Answers, path: Path
) -> list[str]:
    """Nodes of an ONNX file that hold layers of the network, those that lose most first.

    Args:
        module: in eval mode.
        batch: its arguments.
        answers: what the outputs mean.
        path: the file that was exported from it.

    Returns:
        Names of nodes; none where file and network do not have the same layers.
    """
    layers, nodes = _in_order(module, batch), _nodes(path)
    if len(layers) != len(nodes):
        return []
    with torch.no_grad():
        whole = first(module(*batch))
        lost = [_alone(module, name, batch, whole, answers) for name in layers]
    order = sorted(range(len(layers)), key=lambda i: (-lost[i], i))
    return [nodes[i] for i in order]


def _in_order(module: nn.Module, batch: tuple[Any, ...]) -> list[str]:
    """Layers as they run."""
    found: list[str] = []

    def ran(name: str, layer: nn.Module, _: Any, __: Any) -> None:
        if isinstance(layer, _LAYERS):
            found.append(name)

    with hooked(module, ran), torch.no_grad():
        module(*batch)
    return found


def _nodes(path: Path) -> list[str]:
    """Products with weights, in the order of the graph."""
    import onnx

    graph = onnx.load(path).graph
    constants = {t.name for t in graph.initializer}
    for node in graph.node:  # what is made of constants alone, such as a transposed weight
        if node.input and all(name in constants for name in node.input):
            constants.update(node.output)
    return [
        node.name
        for node in graph.node
        if node.op_type in _PRODUCTS and any(name in constants for name in node.input[1:2])
    ]


def _alone(
    module: nn.Module, name: str, batch: tuple[Any, ...], whole: Tensor, answers: Answers
) -> float:
    layer: Any = module.get_submodule(name)
    kept = layer.weight.data
    hook = layer.register_forward_pre_hook(lambda _, args: (_rounded(args[0], None), *args[1:]))
    layer.weight.data = _rounded(kept, 0)
    try:
        return answers.apart(whole, first(module(*batch)))
    finally:
        hook.remove()
        layer.weight.data = kept


def _rounded(x: Tensor, axis: int | None) -> Tensor:
    """In 8 bits: symmetric for each index of an axis, or within the range of the whole."""
    if axis is not None:
        reach = x.abs().flatten(1).amax(1).clamp(min=1e-12) / 127
        step = reach.view(-1, *[1] * (x.dim() - 1))
        return (x / step).round() * step
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    one = max(high - low, 1e-12) / 255
    return (x / one).round() * one


def ladder(count: int) -> Sequence[int]:
    """How many layers to spare in turn: 1, 2, 4 ... up to half of them."""
    return [n for n in (1, 2, 4, 8, 16, 32, 64) if 2 * n <= count]
