"""ONNX operators that calculate: element by element, over axes, with matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sprue.formats.onnx_values import Op, number, numbers, operand, tensor


def _one(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda op, x: function(tensor(x))


def _two(function: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    def run(op: Op, a: Any, b: Any) -> Tensor:
        x, y = operand(a, b), operand(b, a)
        if not isinstance(x, Tensor) and not isinstance(y, Tensor):
            x = tensor(a)
        found: Tensor = function(x, y)
        return found

    return run


def _many(function: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    return lambda op, *parts: reduce(function, (tensor(p) for p in parts))


def _divide(a: Any, b: Any) -> Any:
    tensors = [x for x in (a, b) if isinstance(x, Tensor)]
    if any(x.is_floating_point() for x in tensors):
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def _modulo(op: Op, a: Any, b: Any) -> Tensor:
    function = torch.fmod if op.get("fmod", 0) else torch.remainder
    return function(tensor(a), operand(b, a))


def _mean(op: Op, *parts: Any) -> Tensor:
    total: Tensor = reduce(torch.add, (tensor(p) for p in parts))
    return total / len(parts)


def _clip(op: Op, x: Any, low: Any = None, high: Any = None) -> Tensor:
    a = op.get("min") if low is None else operand(low, x)
    b = op.get("max") if high is None else operand(high, x)
    if a is None and b is None:
        return tensor(x)
    return torch.clamp(tensor(x), a, b)


def _leaky(op: Op, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, op.get("alpha", 0.01))


def _prelu(op: Op, x: Tensor, slope: Any) -> Tensor:
    return torch.where(x >= 0, x, x * operand(slope, x))


def _elu(op: Op, x: Tensor) -> Tensor:
    return functional.elu(x, op.get("alpha", 1.0))


def _celu(op: Op, x: Tensor) -> Tensor:
    return functional.celu(x, op.get("alpha", 1.0))


def _selu(op: Op, x: Tensor) -> Tensor:
    a, g = op.get("alpha", 1.6732632), op.get("gamma", 1.0507010)
    return functional.elu(x, a) * float(g)


def _hard_sigmoid(op: Op, x: Tensor) -> Tensor:
    alpha, beta = op.get("alpha", 0.2), op.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def _gelu(op: Op, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=op.get("approximate", "none"))


def _softplus(op: Op, x: Tensor) -> Tensor:
    return functional.softplus(x, threshold=80.0)


def _swish(op: Op, x: Tensor) -> Tensor:
    alpha = op.get("alpha", 1.0)
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def _thresholded(op: Op, x: Tensor) -> Tensor:
    return torch.where(x > op.get("alpha", 1.0), x, 0.0)


def _shrink(op: Op, x: Tensor) -> Tensor:
    lambd, bias = op.get("lambd", 0.5), op.get("bias", 0.0)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0.0))


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(op: Op, x: Tensor) -> Tensor:
        if op.opset >= 13:
            return function(x, op.get("axis", -1))
        at = op.get("axis", 1) % x.dim()  # before opset 13 over all axes from there on
        if at == x.dim() - 1:
            return function(x, at)
        return function(x.flatten(at), at).reshape(x.shape)

    return run


def _over(op: Op, x: Tensor, axes: Any) -> tuple[int, ...] | None:
    """Axes to reduce; None: as it came, () is never given."""
    told = op.get("axes") if axes is None else [int(n) for n in numbers(axes)]
    if told:
        return tuple(a % x.dim() for a in told)
    return None if op.get("noop_with_empty_axes", 0) else tuple(range(x.dim()))


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(op: Op, x: Any, axes: Any = None) -> Tensor:
        x = tensor(x)
        over = _over(op, x, axes)
        return x if over is None else function(x, over, bool(op.get("keepdims", 1)))

    return run


def _product(x: Tensor, over: tuple[int, ...], keep: bool) -> Tensor:
    for d in sorted(over, reverse=True):
        x = x.prod(d, keepdim=keep)
    return x


def _l2(x: Tensor, over: tuple[int, ...], keep: bool) -> Tensor:
    return x.square().sum(over, keepdim=keep).sqrt()


def _most(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(op: Op, x: Tensor) -> Tensor:
        at = op.get("axis", 0)
        if op.get("select_last_index", 0):
            back: Tensor = function(x.flip(at), at, bool(op.get("keepdims", 1)))
            return back.neg().add(x.shape[at] - 1)
        return function(x, at, bool(op.get("keepdims", 1)))

    return run


def _top_k(op: Op, x: Tensor, k: Any = None) -> tuple[Tensor, Tensor]:
    count = op.get("k") if k is None else int(number(k))
    largest, ordered = bool(op.get("largest", 1)), bool(op.get("sorted", 1))
    values, indices = torch.topk(x, count, op.get("axis", -1), largest, ordered)
    return values, indices


def _cumulated(op: Op, x: Any, axis: Any) -> Tensor:
    x, at = tensor(x), int(number(axis))
    if op.get("reverse", 0):
        x = x.flip(at)
    found = torch.cumsum(x, at, dtype=x.dtype)
    if op.get("exclusive", 0):
        found = found - x
    return found.flip(at) if op.get("reverse", 0) else found


def _matmul(op: Op, a: Any, b: Any) -> Tensor:
    return torch.matmul(tensor(a), tensor(b))


def _gemm(op: Op, a: Any, b: Any, c: Any = None) -> Tensor:
    a, b = tensor(a), tensor(b)
    found: Tensor = (a.T if op.get("transA", 0) else a) @ (b.T if op.get("transB", 0) else b)
    if (alpha := op.get("alpha", 1.0)) != 1.0:
        found = found * alpha
    if c is None:
        return found
    return found + tensor(c).mul(op.get("beta", 1.0))


def _einsum(op: Op, *parts: Any) -> Tensor:
    return torch.einsum(op.get("equation"), *(tensor(p) for p in parts))


def _across(x: Tensor, v: Any) -> Tensor:
    """A number for each channel, against the tensor."""
    return tensor(v).reshape(-1, *[1] * (x.dim() - 2))


def _batch_norm(op: Op, x: Tensor, scale: Any, bias: Any, mean: Any, var: Any) -> Tensor:
    m, v, s, b = (tensor(t) for t in (mean, var, scale, bias))
    return functional.batch_norm(x, m, v, s, b, eps=op.get("epsilon", 1e-5))


def _layer_norm(op: Op, x: Tensor, scale: Any = None, bias: Any = None) -> Tensor:
    at = op.get("axis", -1) % x.dim()
    shape = tuple(x.shape[at:])
    w = None if scale is None else tensor(scale).expand(shape)
    b = None if bias is None else tensor(bias).expand(shape)
    return functional.layer_norm(x, shape, w, b, op.get("epsilon", 1e-5))


def _rms_norm(op: Op, x: Tensor, scale: Any) -> Tensor:
    over = tuple(range(op.get("axis", -1) % x.dim(), x.dim()))
    mean = x.square().mean(over, keepdim=True)
    return x * torch.rsqrt(mean + op.get("epsilon", 1e-5)) * tensor(scale)


def _instance_norm(op: Op, x: Tensor, scale: Any, bias: Any) -> Tensor:
    over = tuple(range(2, x.dim()))
    mean = x.mean(over, keepdim=True)
    apart = x - mean
    var = apart.square().mean(over, keepdim=True)
    normal = apart * torch.rsqrt(var + op.get("epsilon", 1e-5))
    return normal * _across(x, scale) + _across(x, bias)


def _group_norm(op: Op, x: Tensor, scale: Any, bias: Any) -> Tensor:
    count, w, b = op.get("num_groups"), tensor(scale), tensor(bias)
    if w.shape[0] != x.shape[1]:  # before opset 21 one for each group
        w, b = (t.repeat_interleave(x.shape[1] // count) for t in (w, b))
    return functional.group_norm(x, count, w, b, op.get("epsilon", 1e-5))


def _lp_norm(op: Op, x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, op.get("p", 2), op.get("axis", -1), keepdim=True)
    return x / norm


def _mean_variance(op: Op, x: Tensor) -> Tensor:
    over = tuple(op.get("axes") or (0, 2, 3))
    apart = x - x.mean(over, keepdim=True)
    return apart / (apart.square().mean(over, keepdim=True).sqrt() + 1e-9)


def _is_inf(op: Op, x: Tensor) -> Tensor:
    high, low = op.get("detect_positive", 1), op.get("detect_negative", 1)
    return torch.isinf(x) & ((x > 0) & bool(high) | (x < 0) & bool(low))


_ONES: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "HardSwish": functional.hardswish,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Mish": functional.mish,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}
_TWOS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Pow": lambda a, b: a**b,
    "Equal": lambda a, b: a == b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "And": lambda a, b: a & b,
    "Or": lambda a, b: a | b,
    "Xor": lambda a, b: a ^ b,
}
_REDUCED: dict[str, Callable[..., Tensor]] = {
    "ReduceMean": lambda x, d, k: x.mean(d, keepdim=k),
    "ReduceSum": lambda x, d, k: x.sum(d, keepdim=k, dtype=x.dtype),
    "ReduceMax": lambda x, d, k: x.amax(d, keepdim=k),
    "ReduceMin": lambda x, d, k: x.amin(d, keepdim=k),
    "ReduceProd": _product,
    "ReduceL1": lambda x, d, k: x.abs().sum(d, keepdim=k),
    "ReduceL2": _l2,
    "ReduceSumSquare": lambda x, d, k: x.square().sum(d, keepdim=k),
    "ReduceLogSumExp": lambda x, d, k: torch.logsumexp(x, d, keepdim=k),
    "ReduceLogSum": lambda x, d, k: x.sum(d, keepdim=k).log(),
}

MATH: dict[str, Callable[..., Any]] = {
    **{kind: _one(function) for kind, function in _ONES.items()},
    **{kind: _two(function) for kind, function in _TWOS.items()},
    **{kind: _reduce(function) for kind, function in _REDUCED.items()},
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Sum": _many(torch.add),
    "Mean": _mean,
    "Mod": _modulo,
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "Softplus": _softplus,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded,
    "Shrink": _shrink,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "ArgMax": _most(torch.argmax),
    "ArgMin": _most(torch.argmin),
    "TopK": _top_k,
    "CumSum": _cumulated,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance,
    "IsInf": _is_inf,
}
