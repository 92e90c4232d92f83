"""Layers of torch for ONNX nodes whose weights are constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.formats.onnx_values import Op
from sprue.formats.onnx_windows import sides, turned

Array = NDArray[Any]
Constants = Sequence[Array | None]  # of a node's inputs; None: no constant, or left out

_CONVS: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_PADS: dict[int, Any] = {3: nn.ConstantPad1d, 4: nn.ZeroPad2d, 5: nn.ConstantPad3d}
_NORMS: dict[int, Any] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def layer_of(op: Op, constants: Constants, x: Any, given: int) -> nn.Module | None:
    """The layer that does what a node does; None: there is none, and the node is a function.

    Args:
        op: the node.
        constants: of its inputs.
        x: what it is applied to, of the shape that it will have.
        given: how many inputs the node has.

    Raises:
        InputError: weights that are infinite, or do not fit.
    """
    make = LAYERS.get(op.kind)
    rest = constants[1:given]
    if make is None or not isinstance(x, Tensor) or any(c is None for c in rest[:1]):
        return None
    return make(op, constants, x)


def _conv(op: Op, constants: Constants, x: Tensor) -> nn.Module | None:
    w, bias = constants[1], _at(constants, 2)
    if w is None or w.ndim != x.dim() or w.ndim not in _CONVS:
        return None
    count = w.ndim - 2
    groups = op.get("group", 1)
    if w.shape[1] * groups != x.shape[1]:
        raise InputError(
            f"the convolution {op.name} reads {w.shape[1] * groups} channels and gets {x.shape[1]}"
        )
    before, after = sides(op, x, w.shape[2:])
    layer = _CONVS[w.ndim](
        w.shape[1] * groups,
        w.shape[0],
        tuple(w.shape[2:]),
        stride=tuple(op.get("strides") or [1] * count),
        padding=tuple(before) if before == after else 0,
        dilation=tuple(op.get("dilations") or [1] * count),
        groups=groups,
        bias=bias is not None,
    )
    return layer if before == after else _Padded(_pad(w.ndim, before, after), layer)


class _Padded(nn.Sequential):
    """A layer whose input is padded on some sides more than on others."""


def _pad(rank: int, before: Sequence[int], after: Sequence[int]) -> nn.Module:
    around = [n for b, a in zip(reversed(before), reversed(after), strict=True) for n in (b, a)]
    made: nn.Module = _PADS[rank](tuple(around), *(() if rank == 4 else (0.0,)))
    return made


def _conv_transpose(op: Op, constants: Constants, x: Tensor) -> nn.Module | None:
    w, bias = constants[1], _at(constants, 2)
    if w is None or w.ndim != 4 or x.dim() != 4:
        return None
    before, after, more = turned(op, w.ndim, w.shape[2:])
    if before != after:
        return None
    groups = op.get("group", 1)
    return nn.ConvTranspose2d(
        w.shape[0],
        w.shape[1] * groups,
        tuple(w.shape[2:]),
        stride=tuple(op.get("strides") or (1, 1)),
        padding=(before[0], before[1]),
        output_padding=(more[0], more[1]),
        dilation=tuple(op.get("dilations") or (1, 1)),
        groups=groups,
        bias=bias is not None,
    )


def _gemm(op: Op, constants: Constants, x: Tensor) -> nn.Module | None:
    w, bias = constants[1], _at(constants, 2)
    if w is None or w.ndim != 2 or op.get("transA", 0) or x.dim() != 2:
        return None
    rows, columns = w.shape if op.get("transB", 0) else w.shape[::-1]
    if bias is not None and bias.size not in (1, rows):
        return None
    return nn.Linear(columns, rows, bias=bias is not None)


def _matmul(op: Op, constants: Constants, x: Tensor) -> nn.Module | None:
    w = constants[1]
    if w is None or w.ndim != 2 or x.dim() < 2:
        return None
    return nn.Linear(w.shape[0], w.shape[1], bias=_at(constants, 2) is not None)


def _batch_norm(op: Op, constants: Constants, x: Tensor) -> nn.Module | None:
    if op.get("training_mode", 0):
        raise InputError(
            f"{op.name} is a batch normalization in training mode: export the network in eval mode"
        )
    if any(c is None or c.ndim != 1 for c in constants[1:5]) or x.dim() not in _NORMS:
        return None
    made: nn.Module = _NORMS[x.dim()](x.shape[1], eps=op.get("epsilon", 1e-5))
    return made


def _layer_norm(op: Op, constants: Constants, x: Tensor) -> nn.Module | None:
    scale, bias = constants[1], _at(constants, 2)
    shape = tuple(x.shape[op.get("axis", -1) % x.dim() :])
    if scale is None or scale.shape != shape or (bias is not None and bias.shape != shape):
        return None
    return nn.LayerNorm(shape, eps=op.get("epsilon", 1e-5), bias=bias is not None)


LAYERS: dict[str, Callable[[Op, Constants, Tensor], nn.Module | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
}


def _at(constants: Constants, i: int) -> Array | None:
    return constants[i] if len(constants) > i else None


def weights_of(op: Op, constants: Constants, layer: nn.Module) -> dict[str, Array]:
    """Parameters and buffers of a layer from the constants of its node, by their names."""
    found = dict(
        zip(("weight", "bias", "running_mean", "running_var"), constants[1:], strict=False)
    )
    held = {name: array for name, array in found.items() if array is not None}
    if op.kind == "MatMul" or (op.kind == "Gemm" and not op.get("transB", 0)):
        held["weight"] = held["weight"].T
    if op.kind == "Gemm":
        held["weight"] = held["weight"] * np.float32(op.get("alpha", 1.0))
        if "bias" in held:
            rows = held["weight"].shape[0]
            full = np.broadcast_to(held["bias"].reshape(-1), (rows,))
            held["bias"] = full * np.float32(op.get("beta", 1.0))
    return held


def parameters_of(layer: nn.Module) -> nn.Module:
    """The layer itself, where padding comes before it."""
    return layer[-1] if isinstance(layer, _Padded) else layer


@torch.no_grad()
def fill(layer: nn.Module, held: dict[str, Array], name: str) -> None:
    """Put weights into a layer.

    Raises:
        InputError: they are infinite, or do not fit.
    """
    for local, array in held.items():
        if not np.isfinite(array).all():
            raise InputError(
                f"the tensor {name} ({local}) holds infinite weights: the file is damaged"
            )
        into = getattr(layer, local)
        if into.shape != array.shape:
            raise InputError(
                f"{name}: expected {local} of shape {list(into.shape)}, got {list(array.shape)}"
            )
        into.copy_(torch.from_numpy(np.array(array)))
