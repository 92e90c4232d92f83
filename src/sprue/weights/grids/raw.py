"""The grid of what is not compressed: the matrix itself, in 16 or 32 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sprue.weights.grids import Meta, Tensors, row_blocks

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_BLOCK = 2**22


def pack(W: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Stores W [out, in] (float16, bfloat16 or float32) as it is.

    Raises:
        ValueError: another dtype, or not a matrix.
    """
    if W.ndim != 2 or W.dtype not in DTYPES:
        raise ValueError(
            f"expected a float16, bfloat16 or float32 matrix, "
            f"received {str(W.dtype).removeprefix('torch.')} {list(W.shape)}"
        )
    return {"grid": "raw", "shape": list(W.shape)}, {"weight": W.detach().clone().contiguous()}


def dense(meta: Meta, tensors: Tensors) -> Tensor:
    """The matrix, float32 [out, in]."""
    return tensors["weight"].to(torch.float32)


def matmul(meta: Meta, tensors: Tensors, x: Tensor) -> Tensor:
    """x @ matrix.T in x's dtype; a matrix of another dtype is cast a block of rows at a time."""
    weight = tensors["weight"]
    if weight.dtype == x.dtype:
        return x @ weight.T
    blocks = row_blocks((weight.shape[0], weight.shape[1]), _BLOCK)
    return torch.cat([x @ weight[start:stop].to(x.dtype).T for start, stop in blocks], dim=-1)


def rows(meta: Meta, tensors: Tensors, ids: Tensor) -> Tensor:
    """The rows `ids`, float32 [*ids.shape, in]; IndexError where there is no such row."""
    return nn.functional.embedding(ids, tensors["weight"]).to(torch.float32)
