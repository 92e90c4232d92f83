"""ONNX operators that look at windows: pooling, resizing, convolutions of what is no constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sprue.formats.onnx_values import Op, numbers, tensor

_CONVS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
_TURNED = {
    3: functional.conv_transpose1d,
    4: functional.conv_transpose2d,
    5: functional.conv_transpose3d,
}
_MAXES = {3: functional.max_pool1d, 4: functional.max_pool2d, 5: functional.max_pool3d}
_MEANS: dict[int, Any] = {
    3: functional.avg_pool1d,
    4: functional.avg_pool2d,
    5: functional.avg_pool3d,
}
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def sides(op: Op, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and after, of each axis that a window moves along."""
    count = len(kernel)
    how = op.get("auto_pad", "NOTSET")
    pads = op.get("pads") or [0] * (2 * count)
    if how == "NOTSET":
        return list(pads[:count]), list(pads[count:])
    if how == "VALID":
        return [0] * count, [0] * count
    strides, dilations = op.get("strides") or [1] * count, op.get("dilations") or [1] * count
    before, after = [], []
    for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        less = total // 2
        first, second = (less, total - less) if how == "SAME_UPPER" else (total - less, less)
        before.append(int(first))
        after.append(int(second))
    return before, after


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], fill: float = 0.0) -> Tensor:
    """With so much around each of the last axes."""
    if not any(before) and not any(after):
        return x
    pairs = [n for b, a in zip(reversed(before), reversed(after), strict=True) for n in (b, a)]
    return functional.pad(x, pairs, value=fill)


def _conv(op: Op, x: Tensor, w: Any, bias: Any = None) -> Tensor:
    w = tensor(w)
    count = x.dim() - 2
    before, after = sides(op, x, list(w.shape[2:]))
    pads = before
    if before != after:
        x, pads = padded(x, before, after), [0] * count
    return _CONVS[x.dim()](
        x,
        w,
        None if bias is None else tensor(bias),
        op.get("strides") or [1] * count,
        pads,
        op.get("dilations") or [1] * count,
        op.get("group", 1),
    )


def turned(op: Op, rank: int, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Of a transposed convolution: what is cut off before and after, and added at the end."""
    count = rank - 2
    if op.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or op.get("output_shape"):
        raise op.refuse("with auto_pad or output_shape")
    pads = op.get("pads") or [0] * (2 * count)
    return pads[:count], pads[count:], op.get("output_padding") or [0] * count


def cropped(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Without so much around each of the last axes."""
    for d, (b, a) in enumerate(zip(before, after, strict=True), 2):
        if b or a:
            x = torch.ops.aten.slice.Tensor(x, d, b, -a if a else 2**62)
    return x


def _conv_transpose(op: Op, x: Tensor, w: Any, bias: Any = None) -> Tensor:
    w = tensor(w)
    count = x.dim() - 2
    before, after, more = turned(op, x.dim(), list(w.shape[2:]))
    even = before == after
    y: Tensor = _TURNED[x.dim()](
        x,
        w,
        None if bias is None else tensor(bias),
        op.get("strides") or [1] * count,
        before if even else [0] * count,
        more,
        op.get("group", 1),
        op.get("dilations") or [1] * count,
    )
    return y if even else cropped(y, before, after)


def _excess(
    op: Op, x: Tensor, kernel: Sequence[int], before: list[int], after: list[int]
) -> list[int]:
    """With ceil_mode: how far the last window reaches beyond the padding; it starts before it."""
    count = len(kernel)
    strides, dilations = op.get("strides") or [1] * count, op.get("dilations") or [1] * count
    found = []
    for n, k, s, d, b, a in zip(
        x.shape[2:], kernel, strides, dilations, before, after, strict=True
    ):
        reach = d * (k - 1) + 1
        windows = -(-(n + b + a - reach) // s) + 1
        if (windows - 1) * s >= n + b:
            windows -= 1
        found.append(max(int((windows - 1) * s + reach - n - b - a), 0))
    return found


def _max_pool(op: Op, x: Tensor) -> Tensor:
    kernel = op.get("kernel_shape")
    count = len(kernel)
    strides, dilations = op.get("strides") or [1] * count, op.get("dilations") or [1] * count
    before, after = sides(op, x, kernel)
    ceil = bool(op.get("ceil_mode", 0))
    plain = before == after and all(2 * b <= k for b, k in zip(before, kernel, strict=True))
    if not plain:
        if ceil:
            more = _excess(op, x, kernel, before, after)
            after = [a + m for a, m in zip(after, more, strict=True)]
        x, before, ceil = padded(x, before, after, float("-inf")), [0] * count, False
    return _MAXES[x.dim()](x, kernel, strides, before, dilations, ceil)


def _average_pool(op: Op, x: Tensor) -> Tensor:
    kernel = op.get("kernel_shape")
    count = len(kernel)
    if any(d != 1 for d in op.get("dilations") or ()):
        raise op.refuse("with dilations")
    strides = op.get("strides") or [1] * count
    before, after = sides(op, x, kernel)
    whole, ceil = bool(op.get("count_include_pad", 0)), bool(op.get("ceil_mode", 0))
    if before == after and all(2 * b <= k for b, k in zip(before, kernel, strict=True)):
        found: Tensor = _MEANS[x.dim()](x, kernel, strides, before, ceil, whole)
        return found
    if ceil:
        raise op.refuse("with uneven padding and ceil_mode")
    pool = _MEANS[x.dim()]
    mean: Tensor = pool(padded(x, before, after), kernel, strides)
    if whole:
        return mean
    inside = padded(torch.ones_like(x[:1, :1]), before, after)
    share: Tensor = pool(inside, kernel, strides)
    return mean / share


def _global_average(op: Op, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def _global_max(op: Op, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def _resize(op: Op, x: Tensor, *rest: Any) -> Tensor:
    """Inputs: scales; since opset 11 roi, scales, sizes."""
    if len(rest) == 1 or op.kind == "Upsample":
        scales, sizes = (rest[0] if rest else None), None
    else:
        scales, sizes = (*rest, None, None)[1:3]
    rank = x.dim()
    axes = [a % rank for a in op.get("axes") or range(rank)]
    told = op.get("scales") if scales is None or scales.size == 0 else numbers(scales)
    factors: list[Any] = [1.0] * rank
    goal: list[Any] = list(x.shape)
    if sizes is not None and len(numbers(sizes)):
        for d, n in zip(axes, numbers(sizes), strict=True):
            goal[d] = n
        if op.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise op.refuse("with keep_aspect_ratio_policy")
        return _resized(op, x, goal, None)
    for d, f in zip(axes, told, strict=True):
        factors[d] = f
    return _resized(op, x, goal, factors)


def _resized(op: Op, x: Tensor, goal: list[Any], factors: list[Any] | None) -> Tensor:
    if factors is not None and any(f != 1 for f in factors[:2]):
        raise op.refuse("over channels")
    size = None if factors is not None else tuple(goal[2:])
    scale = None if factors is None else [float(f) for f in factors[2:]]
    mode, smooth = op.get("mode", "nearest"), bool(op.get("antialias", 0))
    where = op.get("coordinate_transformation_mode", "half_pixel")
    if op.kind == "Upsample" or op.opset < 11:
        where = "asymmetric"
    plain = _torch_mode(op, x, mode, where, scale, size)
    if plain is None:
        return _by_matrices(op, x, mode, where, scale, size)
    name, corners = plain
    return functional.interpolate(
        x, size, scale, mode=name, align_corners=corners, antialias=smooth
    )


def _torch_mode(
    op: Op, x: Tensor, mode: str, where: str, scale: list[float] | None, size: Any
) -> tuple[str, bool | None] | None:
    """The same in torch, where it has it."""
    whole = scale is not None and all(f == int(f) for f in scale)
    if mode == "nearest":
        how = op.get("nearest_mode", "round_prefer_floor" if op.opset >= 11 else "floor")
        if where == "asymmetric" and how == "floor":
            return "nearest", None
        if whole and where in ("half_pixel", "pytorch_half_pixel") and how.startswith("round"):
            return "nearest", None
        return None
    name = _LINEAR.get(x.dim()) if mode == "linear" else "bicubic" if x.dim() == 4 else None
    if mode == "cubic" and (op.get("cubic_coeff_a", -0.75) != -0.75 or op.get("exclude_outside")):
        name = None
    if name and where in ("half_pixel", "pytorch_half_pixel"):
        return name, False
    if name and where == "align_corners":
        return name, True
    return None


def _by_matrices(
    op: Op, x: Tensor, mode: str, where: str, scale: list[float] | None, size: Any
) -> Tensor:
    """One matrix [out, in] for each axis: any coordinates."""
    if op.get("antialias", 0) or where == "tf_crop_and_resize":
        raise op.refuse(f"with {where} coordinates or antialias")
    for i, d in enumerate(range(2, x.dim())):
        before = int(x.shape[d])
        after = int(size[i]) if scale is None else int(np.floor(before * scale[i]))
        factor = after / before if scale is None else scale[i]
        if after == before and factor == 1:
            continue
        matrix = _matrix(op, mode, where, before, after, factor)
        x = torch.matmul(x.movedim(d, -1), torch.from_numpy(matrix).T).movedim(-1, d)
    return x


def _matrix(op: Op, mode: str, where: str, before: int, after: int, factor: float) -> Any:
    """How much of each old place is in each new one: float32 [after, before]."""
    at = _places(op, where, before, after, factor)
    found = np.zeros((after, before), np.float64)
    rows = np.arange(after)
    if mode == "nearest":
        found[rows, np.clip(_rounded(op, at), 0, before - 1)] = 1
        return found.astype(np.float32)
    low = np.floor(at).astype(int)
    part = at - low
    for offset, share in _shares(mode, part, op.get("cubic_coeff_a", -0.75)):
        columns = low + offset
        if op.get("exclude_outside"):
            share = np.where((columns >= 0) & (columns < before), share, 0.0)
        np.add.at(found, (rows, np.clip(columns, 0, before - 1)), share)
    return (found / found.sum(1, keepdims=True)).astype(np.float32)


def _places(op: Op, where: str, before: int, after: int, factor: float) -> Any:
    out = np.arange(after, dtype=np.float64)
    match where:
        case "half_pixel":
            return (out + 0.5) / factor - 0.5
        case "pytorch_half_pixel":
            return (out + 0.5) / factor - 0.5 if after > 1 else out * 0
        case "half_pixel_symmetric":
            middle = before / 2 * (1 - after / (factor * before))
            return middle + (out + 0.5) / factor - 0.5
        case "align_corners":
            return out * (before - 1) / (after - 1) if after > 1 else out * 0
        case "tf_half_pixel_for_nn":
            return (out + 0.5) / factor
        case "asymmetric":
            return out / factor
    raise op.refuse(f"with {where} coordinates")


def _rounded(op: Op, at: Any) -> Any:
    how = op.get("nearest_mode", "round_prefer_floor" if op.opset >= 11 else "floor")
    turns: dict[str, Callable[[Any], Any]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda a: np.ceil(a - 0.5),
        "round_prefer_ceil": lambda a: np.floor(a + 0.5),
    }
    return turns[how](at).astype(int)


def _shares(mode: str, part: Any, a: float) -> list[tuple[int, Any]]:
    """Offset from the place below -> how much of what is there."""
    if mode == "linear":
        return [(0, 1 - part), (1, part)]

    def cubic(t: Any) -> Any:
        t = np.abs(t)
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0.0))

    return [(k, cubic(part - k)) for k in (-1, 0, 1, 2)]


def _lrn(op: Op, x: Tensor) -> Tensor:
    size = op.get("size")
    squares = functional.pad(
        (x * x).unsqueeze(1), (0, 0) * (x.dim() - 2) + ((size - 1) // 2, size - 1 - (size - 1) // 2)
    )
    parts = [squares.narrow(2, i, x.shape[1]) for i in range(size)]
    total = torch.stack(parts).sum(0).squeeze(1)
    scale: Tensor = op.get("bias", 1.0) + op.get("alpha", 1e-4) / size * total
    return x / scale.pow(op.get("beta", 0.75))


WINDOWS: dict[str, Callable[..., Any]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "Resize": _resize,
    "Upsample": _resize,
    "LRN": _lrn,
}
