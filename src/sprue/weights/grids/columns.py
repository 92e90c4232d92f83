"""A matrix column after column, in 16 or 32 bits: where an input is zero, its column is not read.

At batch 1 a product with a matrix waits for memory, so that skipping half of the columns takes half
of the time. Zeros come from a threshold on the inputs (`weights.threshold`). Several rows of x have
their zeros in different places; they take a dense product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sprue.weights import kernels
from sprue.weights.grids import Meta, Tensors, raw, row_blocks

_BLOCK = 2**18  # weights that are cast and multiplied at a time: they stay in a cache


def pack(W: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Stores W [out, in] (float16, bfloat16 or float32) as [in, out].

    Raises:
        ValueError: another dtype, or not a matrix.
    """
    told, stored = raw.pack(W)
    return told | {"grid": "columns"}, {"weight": stored["weight"].T.contiguous()}


def dense(meta: Meta, tensors: Tensors) -> Tensor:
    """The matrix, float32 [out, in]."""
    return tensors["weight"].T.to(torch.float32, memory_format=torch.contiguous_format)


def matmul(meta: Meta, tensors: Tensors, x: Tensor) -> Tensor:
    """x @ matrix.T in x's dtype.

    One row of x on a CPU reads only the columns that meet no zero (NaN and infinity are no zeros),
    and sums in float32, in the order of the columns, by eight: the same bytes on every processor
    and for any number of threads. Where the kernels were not built, and for several rows, sums run
    in torch's order, and the last digits may differ.
    """
    weight, flat = tensors["weight"], x.reshape(-1, x.shape[-1])
    learning = x.requires_grad and torch.is_grad_enabled()
    alone = len(flat) == 1 and x.device.type == "cpu" and not learning
    y = _one(weight, flat[0])[None] if alone else _several(weight, flat)
    return y.view(*x.shape[:-1], weight.shape[1])


def rows(meta: Meta, tensors: Tensors, ids: Tensor) -> Tensor:
    """The rows `ids`, float32 [*ids.shape, in]; IndexError where there is no such row."""
    return nn.functional.embedding(ids, tensors["weight"].T).to(torch.float32)


def _one(weight: Tensor, x: Tensor) -> Tensor:
    """One row x [in] times weight [in, out]."""
    if x.dtype == torch.float32:
        y = kernels.columns(weight, x)
        if y is not None:
            return y
    kept = x.nonzero()[:, 0]
    return _several(weight[kept], x[None, kept])[0]


def _several(weight: Tensor, x: Tensor) -> Tensor:
    """x [rows, in] times weight [in, out]; on a CPU a block of columns at a time."""
    if x.device.type != "cpu" or weight.numel() <= _BLOCK:
        return x @ weight.to(x.dtype)
    y = x.new_zeros(len(x), weight.shape[1])
    for start, stop in row_blocks((weight.shape[0], weight.shape[1]), _BLOCK):
        y.addmm_(x[:, start:stop], weight[start:stop].to(x.dtype))
    return y
