"""Which channels of a network leave together: dependency groups, read off its exported graph.

Every index of every dimension of every parameter is a node. Operators tie nodes together: the
outputs of a convolution to the inputs of the next, the summands of a residual connection, all
columns of an attention head. What is tied leaves together, and what an operator needs whole (the
outputs of the network, a mean over channels, an operator that is not known here) does not leave at
all. `torch.export` gives the graph in ATen operators, the same for a CNN, an encoder or a detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from sprue.structure.operators import HANDLERS
from sprue.structure.ties import WHOLE, Dims, Nodes, Place, Ties, shape_of


@dataclass(frozen=True)
class Group:
    """Units of one kind: any of them can leave, each with all of its places.

    Attributes:
        units: for each unit, place -> int64 indices that leave with it; the same places in all.
        read: those places that are summed over, where what the units hold is read. With zeros
            there, the outputs of the network are what they are without the units.
    """

    units: tuple[Mapping[Place, Nodes], ...]
    read: tuple[Place, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """Where every unit has a part."""
        return tuple(self.units[0])

    def __len__(self) -> int:
        return len(self.units)


def groups(model: nn.Module, inputs: tuple[Any, ...]) -> list[Group]:
    """All groups of a model, in the order of its parameters.

    Args:
        model: in eval mode; any class that `torch.export` takes.
        inputs: that it runs on.

    Raises:
        ValueError: the model cannot be exported.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(model, inputs)
    except Exception as error:  # whatever the model's code or the export stumbles over
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"the graph of {type(model).__name__} cannot be exported: {reason[0]}"
        ) from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    first = {same: found[0] for found in names_of(model).values() for same in found}
    names = {node: first.get(name, name) for node, name in names.items()}  # tied ones are one
    return _components(_walked(program.graph, names))


def names_of(model: nn.Module) -> dict[int, list[str]]:
    """Parameter or buffer -> all the names that it goes by."""
    found: dict[int, list[str]] = {}
    for all_of in (model.named_parameters, model.named_buffers):
        for name, tensor in all_of(remove_duplicate=False):
            found.setdefault(id(tensor), []).append(name)
    return found


def _components(ties: Ties) -> list[Group]:
    """Those alike together."""
    label = ties.components()
    units: dict[int, dict[Place, list[int]]] = {}
    for place, nodes in ties.places.items():
        for index, component in enumerate(label[nodes].tolist()):
            if component != label[WHOLE]:
                units.setdefault(component, {}).setdefault(place, []).append(index)
    kinds: dict[tuple[Any, ...], list[Mapping[Place, Nodes]]] = {}
    for unit in units.values():
        shape = tuple((place, len(indices)) for place, indices in unit.items())
        kinds.setdefault(shape, []).append({p: np.array(i) for p, i in unit.items()})
    return [
        Group(tuple(found), tuple(p for p in found[0] if p in ties.summed))
        for found in kinds.values()
        if len(found) > 1  # one alone cannot leave
    ]


def _walked(graph: fx.Graph, names: Mapping[str, str]) -> Ties:
    """What the operators of a graph tie; `names` are those of its parameters and buffers."""
    ties = Ties()
    for node in graph.nodes:
        if node.op == "placeholder":
            shape, name = shape_of(node), names.get(node.name)
            none: Dims = [None] * len(shape)
            ties.values[node] = none if name is None else ties.parameter(name, shape)
        elif node.op == "call_function":
            ties.values[node] = _called(ties, node)
        elif node.op == "output":
            ties.keep_all(node.args)
    return ties


def _called(ties: Ties, node: fx.Node) -> Any:
    target = node.target
    if getattr(target, "__name__", "") == "getitem":
        source, index = node.args
        return ties.values[source][index]  # type: ignore[index]
    name = str(target).removeprefix("aten.").split(".")[0]
    if name in HANDLERS:
        return HANDLERS[name](ties, node)
    ties.keep_all([node.args, node.kwargs])
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return [[None] * v.dim() if isinstance(v, Tensor) else [] for v in value]
    return [None] * len(shape_of(node))
