"""Grids: the values that a stored weight can take.

A grid is a module with three pure functions on what is stored; `sprue.weights.packed` lists them by
name. `meta` holds `"shape": [out, in]` and whatever else decoding needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

Meta = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


class Grid(Protocol):
    """What a grid's module offers. None of the three keeps anything that it decoded."""

    def dense(self, meta: Meta, tensors: Tensors) -> Tensor:
        """The matrix, float32 [out, in]."""
        ...

    def matmul(self, meta: Meta, tensors: Tensors, x: Tensor) -> Tensor:
        """x @ matrix.T: x [..., in] of a floating dtype, the result [..., out] of the same."""
        ...

    def rows(self, meta: Meta, tensors: Tensors, ids: Tensor) -> Tensor:
        """The rows `ids` (int64, any shape), float32 [*ids.shape, in], decoding only those.

        Raises:
            IndexError: an id below 0 or beyond the last row.
        """
        ...


def row_blocks(shape: tuple[int, int], weights: int) -> list[tuple[int, int]]:
    """(start, stop) of runs of rows that hold about `weights` weights each, at least one row."""
    count, width = shape
    step = max(1, weights // max(width, 1))
    return [(start, min(start + step, count)) for start in range(0, count, step)]
