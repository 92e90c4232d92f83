"""Reading and replacing the matrix of a linear inside a live block, always as [out, in]."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


def _matrix(block: nn.Module, local: str) -> tuple[nn.Parameter, bool]:
    """The parameter of linear `local`, and whether it is stored as [in, out]."""
    from transformers.pytorch_utils import Conv1D

    module = block.get_submodule(local)
    return cast(nn.Parameter, module.weight), isinstance(module, Conv1D)


def get_weight(block: nn.Module, local: str) -> Tensor:
    """The matrix of linear `local`, [out, in] float32, a copy."""
    weight, transposed = _matrix(block, local)
    dense = weight.detach().t() if transposed else weight.detach()
    return dense.clone(memory_format=torch.contiguous_format)


def set_weight(block: nn.Module, local: str, W: Tensor) -> None:
    """Replace the matrix of linear `local` by `W` [out, in]; the bias stays.

    Raises:
        ValueError: `W` has another shape.
    """
    weight, transposed = _matrix(block, local)
    shape = tuple(weight.shape[::-1] if transposed else weight.shape)
    if tuple(W.shape) != shape:
        raise ValueError(f"{local}: expected a matrix {list(shape)}, received {list(W.shape)}")
    with torch.no_grad():
        weight.copy_(W.t() if transposed else W)
