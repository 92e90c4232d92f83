"""A network as the operators that it runs, one after the other, so that a run can stop anywhere.

`torch.export` gives the operators. A `Pass` keeps of one run what operators that are still to come
read, and nothing else: many inputs can wait at the same place, while something there is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves, tree_map_only

from sprue.structure.units import names_of


class Program:
    """What a network does with inputs of one shape.

    Args:
        model: in eval mode; its parameters are read when they are needed, so that what changes
            there counts.
        inputs: arguments that say the shapes.

    Attributes:
        nodes: in the order in which they run.

    Raises:
        ValueError: the model cannot be exported.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        try:
            with torch.no_grad():
                exported = torch.export.export(model, inputs)
        except Exception as error:  # whatever the model's code or the export stumbles over
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"the graph of {type(model).__name__} cannot be exported: {reason[0]}"
            ) from error
        self._model, self._graph = model, exported.graph_module
        self._constants: Mapping[str, Any] = exported.constants
        nodes = list(exported.graph.nodes)
        placeholders = [node for node in nodes if node.op == "placeholder"]
        self._given = dict(zip(placeholders, exported.graph_signature.input_specs, strict=True))
        self.nodes = [node for node in nodes if node.op in ("get_attr", "call_function")]
        (self._output,) = (node for node in nodes if node.op == "output")
        first = {same: found[0] for found in names_of(model).values() for same in found}
        self._names = {
            node: first.get(str(spec.target), str(spec.target))
            for node, spec in self._given.items()
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)
        }

    def name(self, node: Any) -> str | None:
        """Of the parameter or buffer that a node is."""
        return self._names.get(node) if isinstance(node, fx.Node) else None

    def parameter(self, name: str) -> fx.Node | None:
        """The node of a parameter or buffer; None where nothing reads it."""
        return next((n for n, mine in self._names.items() if mine == name and n.users), None)

    def begin(self, inputs: tuple[Any, ...]) -> dict[fx.Node, Any]:
        """The values before anything has run."""
        leaves: Iterator[Any] = iter(tree_leaves(inputs))
        return {node: self._value(spec, leaves) for node, spec in self._given.items()}

    def _value(self, spec: Any, leaves: Iterator[Any]) -> Any:
        if spec.kind == InputKind.USER_INPUT:
            return next(leaves)
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            owner, _, local = spec.target.rpartition(".")
            return getattr(self._model.get_submodule(owner), local)
        return self._constants[spec.target]

    def run(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """The value of a node, once what it reads has one."""
        if node.op == "get_attr":
            return getattr(self._graph, str(node.target))
        args, kwargs = tree_map_only(fx.Node, lambda n: values[n], (node.args, node.kwargs))
        target: Any = node.target
        return target(*args, **kwargs)

    def last(self) -> dict[fx.Node, list[fx.Node]]:
        """Node -> what nothing reads after it."""
        found: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = set()
        for node in (self._output, *reversed(self.nodes)):
            new = [n for n in (*node.all_input_nodes, node) if n not in seen]
            found[node] = new
            seen.update(new)
        return found


class Pass:
    """One run of a program, at some place in it.

    Args:
        program: what runs.
        inputs: of the shapes that it was made for.
    """

    def __init__(self, program: Program, inputs: tuple[Any, ...]) -> None:
        self._program, self._at = program, 0
        self._values = program.begin(inputs)
        self._last = program.last()

    def until(self, node: fx.Node) -> None:
        """Run everything before this node."""
        nodes = self._program.nodes
        while nodes[self._at] is not node:
            self._step(nodes[self._at])

    def past(self, node: fx.Node) -> Any:
        """Run everything up to this node, itself included; its value."""
        self.until(node)
        return self._step(node, kept=True)

    def value(self, node: Any) -> Any:
        """Of something that the next node reads."""
        return self._values[node]

    def _step(self, node: fx.Node, kept: bool = False) -> Any:
        found = self._program.run(node, self._values)
        self._values[node] = found
        for dead in self._last[node]:
            if dead is not node or not kept:
                self._values.pop(dead, None)
        self._at += 1
        return found
