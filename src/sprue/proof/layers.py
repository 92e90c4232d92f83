"""What an artifact records about its matrices, by layer and by kind of linear."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"^(?P<before>.*?)\.(?P<block>\d+)\.(?P<after>.+)$")


@dataclass(frozen=True)
class Matrix:
    """One matrix as it is stored.

    Attributes:
        module: its name in the model.
        layer: index of its block; None outside the blocks (embedding, head).
        kind: what it is within its block, as short as it stays unique ("q_proj").
        grid: how its values are coded.
        bits: everything stored for it.
        weights: how many it has.
        error: tr(D H D^T) / tr(W H W^T) with D = W - W^, when it was made (no unit).
        zeros: share of its inputs that count as zero, where it has a threshold.
    """

    module: str
    layer: int | None
    kind: str
    grid: str
    bits: int
    weights: int
    error: float
    zeros: float | None = None

    @property
    def bits_per_weight(self) -> float:
        """Bits over weights."""
        return self.bits / self.weights


def matrices(tensors: Mapping[str, Mapping[str, Any]]) -> list[Matrix]:
    """The matrices of sprue.json's "tensors", in the order in which they are listed."""
    places = {module: _place(module) for module in tensors}
    short = _shortened({kind for layer, kind in places.values() if layer is not None})
    return [
        Matrix(
            module=module,
            layer=layer,
            kind=short.get(kind, kind) if layer is not None else kind.split(".")[-1],
            grid=str(tensors[module]["grid"]),
            bits=int(tensors[module]["bits"]),
            weights=int(tensors[module]["weights"]),
            error=float(tensors[module]["error"]),
            zeros=tensors[module].get("zeros"),
        )
        for module, (layer, kind) in places.items()
    ]


def by_layer(found: Iterable[Matrix]) -> dict[int, list[Matrix]]:
    """Layer -> its matrices, layers in order."""
    layers: dict[int, list[Matrix]] = {}
    for matrix in found:
        if matrix.layer is not None:
            layers.setdefault(matrix.layer, []).append(matrix)
    return dict(sorted(layers.items()))


def mean_bits(some: Sequence[Matrix]) -> float:
    """Bits per weight over several matrices."""
    return sum(m.bits for m in some) / sum(m.weights for m in some)


def mean_error(some: Sequence[Matrix]) -> float:
    """Relative error over several matrices, each counted by its weights."""
    return sum(m.error * m.weights for m in some) / sum(m.weights for m in some)


def mean_zeros(some: Sequence[Matrix]) -> float:
    """Share of zeros over several matrices, each counted by its weights."""
    return sum((m.zeros or 0.0) * m.weights for m in some) / sum(m.weights for m in some)


def _place(module: str) -> tuple[int | None, str]:
    match = _NUMBER.match(module)
    if match is None:
        return None, module
    return int(match["block"]), match["after"]


def _shortened(kinds: Iterable[str]) -> dict[str, str]:
    """Each dotted name -> its shortest end that no other has."""
    names = sorted(kinds)
    return {name: _ending(name, names) for name in names}


def _ending(name: str, names: Sequence[str]) -> str:
    parts = name.split(".")
    for size in range(1, len(parts)):
        ending = ".".join(parts[-size:])
        if sum(other == ending or other.endswith(f".{ending}") for other in names) == 1:
            return ending
    return name
