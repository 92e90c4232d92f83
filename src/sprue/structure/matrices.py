"""Layers of torch as the matrices that they multiply with.

A layer is W [out, in] and the columns that it reads at every position: of a convolution the inputs
under its kernel, channel after channel. With groups the rows of W are those of one group after the
other, and each reads the columns of its own group. An embedding is the matrix [width, ids] whose
columns are looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_PIECE = 1 << 26  # numbers under kernels in memory at once


def is_layer(module: nn.Module) -> bool:
    """Whether it is one that is known here."""
    return isinstance(module, (nn.Linear, nn.Embedding, *_CONVOLUTIONS)) or _transposed(module)


def is_embedding(module: nn.Module) -> bool:
    """Whether columns are looked up."""
    return isinstance(module, nn.Embedding)


def matrix(module: nn.Module) -> Tensor:
    """W [out, in]; a view, or a transpose of one."""
    weight: Any = module.weight
    weight = weight.detach()
    flat: Tensor = weight.T if is_embedding(module) or _transposed(module) else weight.flatten(1)
    return flat


def shaped(module: nn.Module, W: Tensor) -> Tensor:
    """A matrix [out, in] in the shape of the layer's weight."""
    weight: Any = module.weight
    turned = W.T if is_embedding(module) or _transposed(module) else W
    return turned.reshape(weight.shape)


def groups(module: nn.Module) -> int:
    """Into which inputs and outputs are divided."""
    return module.groups if isinstance(module, _CONVOLUTIONS) else 1


def under(module: nn.Module) -> int:
    """Columns that belong to one input channel: the places of a kernel."""
    return prod(module.kernel_size) if isinstance(module, _CONVOLUTIONS) else 1


def channels(module: nn.Module, y: Tensor) -> Tensor:
    """What a layer gives, [positions, out]."""
    if isinstance(module, _CONVOLUTIONS):
        return y.movedim(1, -1).reshape(-1, y.shape[1])
    return y.reshape(-1, y.shape[-1])


def sampled(module: nn.Module, x: Tensor, places: Tensor) -> Tensor:
    """The columns at some positions.

    Args:
        module: no embedding.
        x: what it is given.
        places: int64 [count], numbers of positions in the order of `channels`.

    Returns:
        [groups, count, in].
    """
    if not isinstance(module, _CONVOLUTIONS):
        return x.reshape(-1, x.shape[-1])[places][None]
    view = _windows(module, x)  # [examples, channels, positions..., kernel...]
    sides = (len(view), *view.shape[2 : 2 + x.dim() - 2])
    at = torch.unravel_index(places, sides)
    found = view.movedim(1, x.dim() - 1)[at]  # [count, channels, kernel...]
    return found.reshape(len(places), module.groups, -1).transpose(0, 1)


def products(module: nn.Module, x: Tensor, g: Tensor, changes: Tensor, examples: int) -> Tensor:
    """sum over positions of g^T D x for every example and every change D: [examples, changes].

    Args:
        module: a layer.
        x: what it was given, the first dimension that of the examples, or a multiple of it.
        g: gradients at its output.
        changes: [changes, out, in].
        examples: in both; 1 takes all together.
    """
    if is_embedding(module):
        return _looked_up(x, g, changes, examples)
    flat = changes.flatten(1).T
    return torch.cat([G.flatten(1) @ flat for G in _gradients(module, x, g, examples)])


def _looked_up(ids: Tensor, g: Tensor, changes: Tensor, examples: int) -> Tensor:
    rows = g.reshape(examples, -1, g.shape[-1])
    found = [
        (rows * D.T[ids.flatten()].view(rows.shape)).flatten(1).sum(1, dtype=torch.float64)
        for D in changes
    ]
    return torch.stack(found, 1).to(g.dtype)


def _gradients(module: nn.Module, x: Tensor, g: Tensor, examples: int) -> Iterator[Tensor]:
    """The gradient of W for every example, [some, out, in], a few examples at once."""
    if not isinstance(module, _CONVOLUTIONS):
        rows, columns = (t.reshape(examples, -1, t.shape[-1]) for t in (g, x))
        some = max(1, _PIECE // (g.shape[-1] * x.shape[-1]))
        for a, b in zip(torch.split(rows, some), torch.split(columns, some), strict=True):
            yield a.transpose(1, 2) @ b
        return
    view, rows = _windows(module, x), g.flatten(2)
    inputs = x.shape[1] * under(module)
    some = max(1, _PIECE // max(rows.shape[2] * inputs, rows.shape[1] * inputs // module.groups))
    whole: list[Tensor] = []
    for a, b in zip(torch.split(view, some), torch.split(rows, some), strict=True):
        spread = a.flatten(2) if under(module) == 1 else _spread(a, x.dim() - 2)
        spread = spread.reshape(len(b), module.groups, -1, b.shape[2])
        grouped = b.reshape(len(b), module.groups, -1, b.shape[2])
        G = (grouped @ spread.transpose(2, 3)).flatten(1, 2)
        if examples == len(x):
            yield G
        else:
            whole.append(G)
    if whole:
        yield torch.unflatten(torch.cat(whole), 0, (examples, -1)).sum(1)


def _spread(view: Tensor, dims: int) -> Tensor:
    """[examples, channels x kernel, positions] of windows."""
    order = (0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
    found = view.permute(order)
    return found.reshape(len(view), prod(found.shape[1 : 2 + dims]), -1)


def _windows(module: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """What lies under the kernel, without a copy: [examples, channels, positions..., kernel...]."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    sides = module._reversed_padding_repeated_twice
    if any(sides):
        x = functional.pad(x, sides, mode=mode)
    options = zip(module.kernel_size, module.stride, module.dilation, strict=True)
    for i, (kernel, stride, dilation) in enumerate(options):
        x = x.unfold(2 + i, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
    return x


def _transposed(module: nn.Module) -> bool:
    """The linear layer of GPT-2, whose weight is [in, out]."""
    named = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    return named and isinstance(module.weight, Tensor) and module.weight.dim() == 2
