"""A packed matrix: what is stored, and how to multiply with it.

A grid is one module with three functions (`dense`, `matmul`, `rows`), registered in `_GRIDS`.
A low-rank part `l`, `r` may stand beside any grid: W^ = grid + L @ R.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Meta = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Packed:
    """A matrix as it is stored.

    Attributes:
        shape: (out, in) of the matrix.
        meta: what decoding needs beside the tensors; JSON-able.
        tensors: exactly what is stored; names hold no dot.
        error: tr(D H D^T) / tr(W H W^T) with D = W - W^, as it was made (no unit).
    """

    shape: tuple[int, int]
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    error: float

    @property
    def bits(self) -> int:
        """Everything stored, in bits."""
        return 8 * sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over the number of weights of the matrix."""
        return self.bits / (self.shape[0] * self.shape[1])
