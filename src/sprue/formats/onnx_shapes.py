"""ONNX operators that move values about, and those that tell of shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sprue.formats.onnx_values import (
    DTYPES,
    MOST_HOST,
    Op,
    host,
    is_host,
    number,
    numbers,
    operand,
    tensor,
)


def _axes(op: Op, value: Any, rank: int) -> list[int]:
    """Axes, by the second input or, in older files, by an attribute; from the front."""
    told = op.get("axes") if value is None else [int(n) for n in numbers(value)]
    return [] if told is None else [a % rank for a in told]


def _identity(op: Op, x: Any, *_: Any) -> Any:
    return x if op.outputs == 1 else (x, torch.ones_like(tensor(x), dtype=torch.bool))


def _shape(op: Op, x: Any) -> Any:
    return host(list(x.shape)[op.get("start", 0) : op.get("end")])


def _size(op: Op, x: Any) -> Any:
    return host(prod(x.shape))


def _reshape(op: Op, x: Any, shape: Any = None) -> Any:
    given = list(op.get("shape", ())) if shape is None else numbers(shape)
    plan = op.get("plan") or [None] * len(given)
    out = [
        _planned(x, p) if p else x.shape[j] if n == 0 and not op.get("allowzero", 0) else n
        for j, (n, p) in enumerate(zip(given, plan, strict=True))
    ]
    divided = [j for j, p in enumerate(plan) if p and (p[1] > 1 or len(p[0]) > 1)]
    if len(divided) == 1 and not any(isinstance(n, int) and n == -1 for n in out):
        out[divided[0]] = -1  # says the same without a division of symbols
    return x.reshape(tuple(out))


def _planned(x: Any, plan: tuple[Sequence[int], int]) -> Any:
    """A size of the result that follows sizes of what comes in."""
    sizes, divisor = plan
    return (
        prod(x.shape[d] for d in sizes) // divisor
        if divisor > 1
        else prod(x.shape[d] for d in sizes)
    )


def _flatten(op: Op, x: Tensor) -> Tensor:
    at = op.get("axis", 1)
    at = at + x.dim() if at < 0 else at
    if at == 1 and x.dim() > 1:
        return x.flatten(1)
    return x.reshape(prod(x.shape[:at]), -1)


def _transpose(op: Op, x: Any) -> Any:
    order = op.get("perm") or list(range(x.ndim))[::-1]
    return x.transpose(order) if is_host(x) else x.permute(order)


def _squeeze(op: Op, x: Any, axes: Any = None) -> Any:
    over = _axes(op, axes, x.ndim) or [d for d, n in enumerate(x.shape) if n == 1]
    if is_host(x):
        return x.squeeze(tuple(over))
    for d in sorted(over, reverse=True):
        x = x.squeeze(d)
    return x


def _unsqueeze(op: Op, x: Any, axes: Any = None) -> Any:
    told = op.get("axes") if axes is None else [int(n) for n in numbers(axes)]
    for d in sorted(a % (x.ndim + len(told)) for a in told):
        x = np.expand_dims(x, d) if is_host(x) else x.unsqueeze(d)
    return x


def _concat(op: Op, *parts: Any) -> Any:
    at = op.get("axis")
    if all(is_host(p) for p in parts):
        return np.concatenate(parts, at)
    tensors = [tensor(p) for p in parts]
    at = at % tensors[0].dim()
    if at:
        tensors = _as_many(tensors)
    return torch.cat(tensors, at)


def _as_many(parts: list[Tensor]) -> list[Tensor]:
    """What a file for one example joins to it once is joined to each of several."""
    counts = [p.shape[0] for p in parts]
    many = next((n for n in counts if not (isinstance(n, int) and n == 1)), None)
    if many is None:
        return parts
    return [
        p.expand(many, *p.shape[1:]) if isinstance(n, int) and n == 1 else p
        for p, n in zip(parts, counts, strict=True)
    ]


def _split(op: Op, x: Any, sizes: Any = None) -> Any:
    at = op.get("axis", 0) % x.ndim
    told = op.get("split") if sizes is None else [int(n) for n in numbers(sizes)]
    if told is None:
        whole = x.shape[at]
        each = -(-whole // op.outputs)
        told = [each] * (op.outputs - 1)
        told.append(whole - sum(told))
    found: tuple[Any, ...]
    if is_host(x):
        found = tuple(np.split(x, np.cumsum(told)[:-1].astype(int), at))
    else:
        found = torch.split(x, told, at)
    return found[0] if op.outputs == 1 else found


def _slice(
    op: Op, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None
) -> Any:
    first = op.get("starts") if starts is None else numbers(starts)
    last = op.get("ends") if ends is None else numbers(ends)
    over = _axes(op, axes, x.ndim) or list(range(len(first)))
    strides = [1] * len(first) if steps is None else [int(n) for n in numbers(steps)]
    for d, a, b, step in zip(over, first, last, strides, strict=True):
        x = _cut(x, d, a, b, step)
    return x


def _cut(x: Any, d: int, a: Any, b: Any, step: int) -> Any:
    if is_host(x):
        stop = None if step < 0 and b < -x.shape[d] else b
        return x[(slice(None),) * d + (slice(a, stop, step),)]
    if step > 0:
        return torch.ops.aten.slice.Tensor(x, d, a, b, step)
    found = range(*slice(a, None if b < -x.shape[d] else b, step).indices(x.shape[d]))
    if len(found) == 0:
        return x.narrow(d, 0, 0)
    low = torch.ops.aten.slice.Tensor(x, d, found[-1], found[0] + 1, -step)
    return low.flip(d)


def _gather(op: Op, x: Any, indices: Any) -> Any:
    at = op.get("axis", 0) % x.ndim
    if is_host(x) and is_host(indices):
        found = np.take(x, indices.astype(int), at)
        return found if isinstance(found, np.ndarray) else host(found)
    x = tensor(x)
    if is_host(indices) and indices.ndim == 0:
        return x.select(at, indices.item())
    wanted = tensor(indices)
    if not is_host(indices) or any(isinstance(n, int) and n < 0 for n in numbers(indices)):
        wanted = torch.where(wanted < 0, wanted + x.shape[at], wanted)
    found = torch.index_select(x, at, wanted.reshape(-1).long())
    if wanted.dim() == 1:
        return found
    return found.reshape((*x.shape[:at], *wanted.shape, *x.shape[at + 1 :]))


def _gather_elements(op: Op, x: Any, indices: Any) -> Tensor:
    x, at, wanted = tensor(x), op.get("axis", 0), tensor(indices).long()
    wanted = torch.where(wanted < 0, wanted + x.shape[at], wanted)
    return torch.gather(x, at, wanted)


def _gather_nd(op: Op, x: Any, indices: Any) -> Tensor:
    if op.get("batch_dims", 0):
        raise op.refuse("with batch_dims")
    wanted = tensor(indices).long()
    if op.get("each"):  # the examples are all meant, of which the file has one
        rest: tuple[Any, ...] = wanted[0, ..., 1:].unbind(-1)
        return tensor(x)[(slice(None), *rest)]
    return tensor(x)[tuple(wanted.unbind(-1))]


def _scatter_nd(op: Op, x: Any, indices: Any, updates: Any) -> Tensor:
    added = {"none": False, "add": True}.get(op.get("reduction", "none"))
    if added is None:
        raise op.refuse(f"with reduction={op.get('reduction')}")
    where = tuple(tensor(indices).long().unbind(-1))
    return tensor(x).index_put(where, tensor(updates), accumulate=added)


def _scatter_elements(op: Op, x: Any, indices: Any, updates: Any) -> Tensor:
    if op.get("reduction", "none") != "none":
        raise op.refuse(f"with reduction={op.get('reduction')}")
    x, at, where = tensor(x), op.get("axis", 0), tensor(indices).long()
    where = torch.where(where < 0, where + x.shape[at], where)
    found: Tensor = torch.scatter(x, at, where, tensor(updates))
    return found


def _expand(op: Op, x: Any, shape: Any) -> Any:
    target = [1] * (x.ndim - shape.size if is_host(shape) else 0) + numbers(shape)
    if is_host(x):
        if all(isinstance(n, int) for n in target) and prod(target) <= MOST_HOST:
            return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(target)))
        x = tensor(x)
    sizes = [1] * (len(target) - x.dim()) + list(x.shape)
    wanted = [t if _one(size) else size for size, t in zip(sizes, target, strict=True)]
    return x.expand(tuple(wanted))


def _one(n: Any) -> bool:
    return isinstance(n, int) and n == 1


def _tile(op: Op, x: Any, repeats: Any) -> Any:
    times = tuple(numbers(repeats))
    return np.tile(x, times) if is_host(x) else x.repeat(times)


def _constant_of_shape(op: Op, shape: Any) -> Any:
    value = op.get("value")
    fill = 0.0 if value is None else value.reshape(-1)[0].item()
    sizes = numbers(shape)
    if len(sizes) <= 1 and all(isinstance(n, int) for n in sizes) and prod(sizes) <= MOST_HOST:
        return host([fill] * prod(sizes), sizes)
    dtype = {bool: torch.bool, int: torch.int64, float: torch.float32}[type(fill)]
    return torch.full(tuple(sizes), fill, dtype=dtype)


def _range(op: Op, start: Any, limit: Any, delta: Any) -> Any:
    a, b, step = number(start), number(limit), number(delta)
    return torch.arange(a, b, step)


def _cast(op: Op, x: Tensor) -> Tensor:
    to = DTYPES.get(int(op.get("to")), torch.float32)
    return x if x.dtype == to else x.to(to)


def _cast_like(op: Op, x: Any, like: Any) -> Tensor:
    y, to = tensor(x), tensor(like).dtype
    return y if y.dtype == to else y.to(to)


def _where(op: Op, condition: Any, a: Any, b: Any) -> Tensor:
    c = tensor(condition)
    x, y = operand(a, c), operand(b, c)
    if not isinstance(x, Tensor) and not isinstance(y, Tensor):
        x = tensor(a)
    return torch.where(c, x, y)


def _pad(op: Op, given: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    x = tensor(given)
    told = op.get("pads") or op.get("paddings") if pads is None else numbers(pads)
    over = _axes(op, axes, x.dim()) or list(range(x.dim()))
    sides: list[Any] = [0] * (2 * x.dim())
    for i, d in enumerate(over):
        at = 2 * (x.dim() - 1 - d)
        sides[at : at + 2] = told[i], told[i + len(over)]
    while sides and all(isinstance(n, int) and n == 0 for n in sides[-2:]):
        del sides[-2:]
    if not sides:
        return x
    mode = {"edge": "replicate", "wrap": "circular"}.get(how := op.get("mode", "constant"), how)
    fill = _fill(op, value) if mode == "constant" else None
    found: Tensor = functional.pad(x, sides, mode, fill)
    return found


def _fill(op: Op, value: Any) -> Any:
    return op.get("value", 0.0) if value is None else number(value)


def _depth_to_space(op: Op, x: Tensor) -> Tensor:
    size = op.get("blocksize")
    if op.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, size)
    n, c, h, w = x.shape
    x = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(op: Op, x: Tensor) -> Tensor:
    size = op.get("blocksize")
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * size**2, h // size, w // size)


def _trilu(op: Op, x: Any, k: Any = None) -> Tensor:
    diagonal = 0 if k is None else int(number(k))
    return (torch.triu if op.get("upper", 1) else torch.tril)(tensor(x), diagonal)


def _one_hot(op: Op, indices: Any, depth: Any, values: Any) -> Tensor:
    at, count, (off, on) = op.get("axis", -1), int(number(depth)), tensor(values)
    where = tensor(indices).long()
    where = torch.where(where < 0, where + count, where).unsqueeze(at)
    shape = [1] * where.dim()
    shape[at] = count
    return torch.where(where == torch.arange(count).reshape(shape), on, off)


SHAPES: dict[str, Callable[..., Any]] = {
    "Identity": _identity,
    "Dropout": _identity,
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Where": _where,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _trilu,
    "OneHot": _one_hot,
}
HOSTED = {  # of those, what works on numbers on the host
    *("Identity", "Shape", "Size", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat"),
    *("Split", "Slice", "Gather", "Expand", "Tile", "ConstantOfShape", "Range"),
}
