"""Reading and replacing the matrix of a linear inside a live block, always as [out, in]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from sprue.weights import threshold


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


@contextmanager
def lent(block: nn.Module, names: Iterable[str], matrix: Callable[[str], Tensor]) -> Iterator[None]:
    """For the time of a `with`, the linears `names` run with other matrices.

    Each is asked for when its linear runs and dropped afterwards, so that a block can be run as it
    was and as it is without a second block in memory.

    Args:
        block: the live block.
        names: local names of linears.
        matrix: local name -> [out, in] float32.
    """
    hooks = []
    for name in names:
        parameter, transposed = _matrix(block, name)
        kept = parameter.data

        def take(
            module: nn.Module, _: Any, name: str = name, transposed: bool = transposed
        ) -> None:
            W = matrix(name).to(cast(Tensor, module.weight).device)
            cast(nn.Parameter, module.weight).data = W.t() if transposed else W

        def give_back(module: nn.Module, _: Any, __: Any, kept: Tensor = kept) -> None:
            cast(nn.Parameter, module.weight).data = kept

        module = block.get_submodule(name)
        hooks += [module.register_forward_pre_hook(take), module.register_forward_hook(give_back)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def thresholded(
    block: nn.Module,
    limits: Mapping[str, float],
    tap: Callable[[str, Tensor], None] | None = None,
) -> Iterator[None]:
    """For the time of a `with`, small inputs of linears count as zero (`weights.threshold`).

    Args:
        block: the live block.
        limits: local name of a linear -> its threshold.
        tap: called with the name and which inputs count as zero, bool [..., in], each time.
    """

    def hook(local: str, limit: float) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
        def mask(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            if tap is not None:
                tap(local, threshold.dropped(inputs[0], limit))
            return threshold.applied(inputs[0], limit)

        return mask

    hooks = [
        block.get_submodule(local).register_forward_pre_hook(hook(local, limit))
        for local, limit in limits.items()
    ]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
