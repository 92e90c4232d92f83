"""Nodes that leave together: what ties the indices of parameters to one another.

Every index of every dimension of every parameter is a node. Whoever knows what an operator does
says which nodes it ties, and which it needs whole; components of what is tied leave together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

Nodes = NDArray[np.int64]
Dims = list[Nodes | None]  # of a tensor: the nodes of each dimension, None where it has none

WHOLE = 0  # the node of what cannot leave


@dataclass(frozen=True)
class Place:
    """A dimension of a parameter or buffer."""

    name: str
    dim: int


class Ties:
    """What is tied to what, while a graph is walked.

    Attributes:
        places: the nodes of every dimension of every parameter met so far.
        summed: those of them that are summed over.
        values: node of the graph -> the dimensions of its tensor, or a list of such.
    """

    def __init__(self) -> None:
        self.places: dict[Place, Nodes] = {}
        self.summed: set[Place] = set()
        self.values: dict[fx.Node, Any] = {}
        self._count = WHOLE + 1
        self._edges: list[tuple[Nodes, Nodes]] = []

    def parameter(self, name: str, shape: tuple[int, ...]) -> Dims:
        """The dimensions of a parameter; the same every time."""
        for dim, size in enumerate(shape):
            if Place(name, dim) not in self.places:
                first, self._count = self._count, self._count + size
                self.places[Place(name, dim)] = np.arange(first, self._count)
        return [self.places[Place(name, dim)] for dim in range(len(shape))]

    def tie(self, a: Nodes | None, b: Nodes | None) -> None:
        """Index by index; one without nodes, or of another length, keeps the other whole."""
        if a is not None and b is not None and len(a) == len(b):
            self._edges.append((a, b))
        else:
            self.keep(a)
            self.keep(b)

    def keep(self, nodes: Nodes | None) -> None:
        """None of these leaves."""
        if nodes is not None:
            self._edges.append((nodes, np.full(len(nodes), WHOLE)))

    def keep_all(self, values: Any) -> None:
        """None of what is found in arguments leaves, in any dimension."""
        for value in _flat(values):
            if isinstance(value, fx.Node):
                for dims in _tensors(self.values.get(value)):
                    for nodes in dims:
                        self.keep(nodes)

    def read(self, nodes: Nodes | None, columns: Nodes | None) -> None:
        """Columns of a parameter that sum over these."""
        self.tie(nodes, columns)
        self.summed |= {p for p, mine in self.places.items() if mine is columns}

    def dims(self, argument: Any) -> Dims:
        """Of a tensor argument; numbers have none."""
        return list(self.values[argument]) if isinstance(argument, fx.Node) else []

    def components(self) -> Nodes:
        """The component of every node."""
        a, b = (np.concatenate([e[i] for e in self._edges] or [np.zeros(0, int)]) for i in (0, 1))
        tied = coo_matrix((np.ones(len(a), bool), (a, b)), (self._count, self._count))
        return np.asarray(connected_components(tied, directed=False)[1], np.int64)


def shape_of(node: Any) -> tuple[int, ...]:
    """Of the tensor that a node of the graph gives; () where it is none."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(int(n) for n in value.shape) if isinstance(value, Tensor) else ()


def _flat(values: Any) -> list[Any]:
    if isinstance(values, (list, tuple)):
        return [found for value in values for found in _flat(value)]
    if isinstance(values, dict):
        return _flat(list(values.values()))
    return [values]


def _tensors(value: Any) -> list[Dims]:
    """The tensors in a value: it is one, or a list of them."""
    if not value or isinstance(value[0], np.ndarray) or value[0] is None:
        return [value] if value else []
    return [dims for part in value for dims in _tensors(part)]
