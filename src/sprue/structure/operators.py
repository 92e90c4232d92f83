"""What each operator of a graph ties together, and what it needs whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx

from sprue.structure.ties import WHOLE, Dims, Nodes, Ties, shape_of


def _same(g: Ties, node: fx.Node) -> Dims:
    """One tensor, element by element."""
    return g.dims(_args(node)[0])


def _elementwise(g: Ties, node: fx.Node) -> Dims:
    """Tensors that are broadcast against one another."""
    shape = shape_of(node)
    out: Dims = [None] * len(shape)
    for argument in _args(node):
        if not isinstance(argument, fx.Node):
            continue
        dims, sizes = g.dims(argument), shape_of(argument)
        for k in range(1, len(dims) + 1):
            nodes = dims[-k]
            if sizes[-k] == 1 and shape[-k] != 1:
                g.keep(nodes)
            elif out[-k] is None:
                out[-k] = nodes
            elif nodes is not None:
                g.tie(out[-k], nodes)
    # a tensor without nodes, of a size of its own, does not shrink with the other
    for argument in _args(node):
        if isinstance(argument, fx.Node):
            for k, (nodes, size) in enumerate(
                zip(reversed(g.dims(argument)), reversed(shape_of(argument)), strict=True), 1
            ):
                if nodes is None and size > 1:
                    g.keep(out[-k])
    return out


def _conv(g: Ties, node: fx.Node) -> Dims:
    x, w = g.dims(_args(node)[0]), g.dims(_args(node)[1])
    bias = _args(node)[2] if len(_args(node)) > 2 else None
    count = int(_args(node)[6]) if len(_args(node)) > 6 else 1
    inputs, out = x[1], w[0]
    assert out is not None
    for nodes in w[2:]:
        g.keep(nodes)
    if bias is not None:
        g.tie(g.dims(bias)[0], out)
    if count == 1:
        g.read(inputs, w[1])
    elif inputs is not None and count == len(inputs):
        g.keep(w[1])
        g.tie(np.repeat(inputs, len(out) // count), out)
    else:
        g.keep(inputs)
        g.keep(w[1])
        g.keep(out)
    return [x[0], out, *[None] * (len(x) - 2)]


def _conv_transposed(g: Ties, node: fx.Node) -> Dims:
    x, w = g.dims(_args(node)[0]), g.dims(_args(node)[1])
    bias = _args(node)[2] if len(_args(node)) > 2 else None
    count = int(_args(node)[6]) if len(_args(node)) > 6 else 1
    for nodes in w[2:]:
        g.keep(nodes)
    if count == 1:
        g.read(x[1], w[0])
        if bias is not None:
            g.tie(g.dims(bias)[0], w[1])
        return [x[0], w[1], *[None] * (len(x) - 2)]
    g.keep(x[1])
    g.keep_all(_args(node)[1:3])
    return [None] * len(x)


def _checked(g: Ties, node: fx.Node) -> Dims:
    """Nothing is done to what is looked at."""
    return []


def _linear(g: Ties, node: fx.Node) -> Dims:
    x, w = g.dims(_args(node)[0]), g.dims(_args(node)[1])
    g.read(x[-1], w[1])
    if len(_args(node)) > 2 and _args(node)[2] is not None:
        g.tie(g.dims(_args(node)[2])[0], w[0])
    return [*x[:-1], w[0]]


def _addmm(g: Ties, node: fx.Node) -> Dims:
    bias, x, w = (g.dims(a) for a in _args(node)[:3])
    g.read(x[-1], w[0])
    g.tie(bias[-1], w[1])
    return [x[0], w[1]]


def _matmul(g: Ties, node: fx.Node) -> Dims:
    a, b = (g.dims(x) for x in _args(node)[:2])
    if len(a) < 2 or len(b) < 2:
        g.keep_all(_args(node))
        return [None] * len(shape_of(node))
    _tie_if(g, a[-1], b[-2])
    out: Dims = [None] * (len(shape_of(node)) - 2)
    sizes = [shape_of(x) for x in _args(node)[:2]]
    for k in range(3, len(out) + 3):
        # one of size 1, or none, is used for all of the other's
        full = [x[-k] for x, n in zip((a, b), sizes, strict=True) if len(n) >= k and n[-k] > 1]
        if len(full) == 2:
            _tie_if(g, *full)
        out[-(k - 2)] = full[0] if full else None
        for x, n in zip((a, b), sizes, strict=True):
            if full and len(n) >= k and n[-k] == 1:
                g.keep(x[-k])
    return [*out, a[-2], b[-1]]


def _attention(g: Ties, node: fx.Node) -> Dims:
    q, k, v = (g.dims(x) for x in _args(node)[:3])
    sizes = [shape_of(x) for x in _args(node)[:3]]
    _tie_if(g, q[-1], k[-1])
    for i in range(len(q) - 2):
        for other, size in ((k[i], sizes[1][i]), (v[i], sizes[2][i])):
            if q[i] is not None and other is not None and size != sizes[0][i]:
                other = np.repeat(other, sizes[0][i] // size)  # grouped queries
            _tie_if(g, q[i], other)
    if len(_args(node)) > 3:
        g.keep_all(_args(node)[3])
    return [*q[:-1], v[-1]]


def _tie_if(g: Ties, a: Nodes | None, b: Nodes | None) -> None:
    """Both without nodes: nothing to tie."""
    if a is not None or b is not None:
        g.tie(a, b)


def _batch_norm(g: Ties, node: fx.Node) -> Dims:
    x = g.dims(_args(node)[0])
    for argument in _args(node)[1:5]:
        if isinstance(argument, fx.Node):
            g.tie(x[1], g.dims(argument)[0])
    return x


def _layer_norm(g: Ties, node: fx.Node) -> Dims:
    x, count = g.dims(_args(node)[0]), len(_args(node)[1])
    for nodes in x[-count:]:
        g.keep(nodes)
    g.keep_all(_args(node)[2:4])
    return x


def _embedding(g: Ties, node: fx.Node) -> Dims:
    w = g.dims(_args(node)[0])
    g.keep(w[0])
    return [*g.dims(_args(node)[1]), w[1]]


def _pool(g: Ties, node: fx.Node) -> Any:
    x = g.dims(_args(node)[0])
    out: Dims = [*x[:2], *[None] * (len(x) - 2)]
    return [out, list(out)] if isinstance(node.meta["val"], (tuple, list)) else out


def _reduced(g: Ties, node: fx.Node) -> Dims:
    x = g.dims(_args(node)[0])
    given = _args(node)[1] if len(_args(node)) > 1 else None
    over = range(len(x)) if given is None else ([given] if isinstance(given, int) else given)
    over = {d % len(x) for d in over} or set(range(len(x)))
    for d in over:
        g.keep(x[d])
    if len(shape_of(node)) == len(x):
        return [None if d in over else nodes for d, nodes in enumerate(x)]
    return [nodes for d, nodes in enumerate(x) if d not in over]


def _softmax(g: Ties, node: fx.Node) -> Dims:
    x = g.dims(_args(node)[0])
    g.keep(x[int(_args(node)[1])])
    return x


def _cat(g: Ties, node: fx.Node) -> Dims:
    parts = [g.dims(a) for a in _args(node)[0]]
    at = int(_args(node)[1] if len(_args(node)) > 1 else _dim(node)) % len(parts[0])
    out = list(parts[0])
    for d in range(len(out)):
        if d == at:
            if any(p[d] is not None for p in parts):
                sizes = [shape_of(a)[d] for a in _args(node)[0]]
                out[d] = np.concatenate(
                    [
                        np.full(n, WHOLE) if p[d] is None else p[d]
                        for p, n in zip(parts, sizes, strict=True)
                    ]
                )
        else:
            for other in parts[1:]:
                _tie_if(g, out[d], other[d])
    return out


def _sliced(g: Ties, node: fx.Node) -> Dims:
    """A piece along one dimension: written with numbers, which do not follow what leaves."""
    x, at = g.dims(_args(node)[0]), int(_args(node)[1] if len(_args(node)) > 1 else 0)
    if shape_of(node)[at] != shape_of(_args(node)[0])[at]:
        g.keep(x[at])
        x[at] = None
    return x


def _split(g: Ties, node: fx.Node) -> list[Dims]:
    x = g.dims(_args(node)[0])
    at = int(_args(node)[2] if len(_args(node)) > 2 else _dim(node))
    g.keep(x[at])
    x[at] = None
    return [list(x) for _ in node.meta["val"]]


def _selected(g: Ties, node: fx.Node) -> Dims:
    x, at = g.dims(_args(node)[0]), int(_args(node)[1])
    g.keep(x[at])
    del x[at % len(x)]
    return x


def _padded(g: Ties, node: fx.Node) -> Dims:
    x, pads = g.dims(_args(node)[0]), list(_args(node)[1])
    for k in range(len(pads) // 2):
        if pads[2 * k] or pads[2 * k + 1]:
            g.keep(x[-k - 1])
            x[-k - 1] = None
    return x


def _reshaped(g: Ties, node: fx.Node) -> Dims:
    x, before, after = g.dims(_args(node)[0]), shape_of(_args(node)[0]), shape_of(node)
    out: Dims = []
    for olds, news in _factors(before, after):
        out += _regrouped(
            g, [x[d] for d in olds], [before[d] for d in olds], [after[d] for d in news]
        )
    return out


def _regrouped(g: Ties, x: Dims, before: list[int], after: list[int]) -> Dims:
    """Dimensions that became others of the same size together."""
    if len(before) == len(after) == 1:
        return x
    if all(nodes is None for nodes in x):
        return [None] * len(after)
    if len(after) == 1:  # together: the first of them decides, the others stay as they are
        lead = next((k for k, n in enumerate(before) if n > 1), 0)
        for nodes in (n for k, n in enumerate(x) if k != lead):
            g.keep(nodes)
        nodes = x[lead]
        return [None if nodes is None else np.repeat(nodes, after[0] // before[lead])]
    if (
        len(before) == 1 and x[0] is not None
    ):  # apart: what the first of them counts leaves together
        lead = next((k for k, n in enumerate(after) if n > 1), 0)
        rows = x[0].reshape(after[lead], -1)
        g.tie(rows[:, 1:].reshape(-1), np.repeat(rows[:, 0], rows.shape[1] - 1))
        out: Dims = [None] * len(after)
        for k, n in enumerate(after):
            if k == lead:
                out[k] = rows[:, 0]
            elif n > 1:
                out[k] = np.full(n, WHOLE)
        return out
    for nodes in x:
        g.keep(nodes)
    return [None] * len(after)


def _factors(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions, old and new, of the same size together; as short as can be."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        olds: list[int] = []
        news: list[int] = []
        a = b = 1
        while not olds or not news or a != b:
            if (a <= b or not news) and i < len(before) and (a < b or not olds or a == b):
                a *= before[i]
                olds.append(i)
                i += 1
            elif j < len(after):
                b *= after[j]
                news.append(j)
                j += 1
            elif i < len(before):
                a *= before[i]
                olds.append(i)
                i += 1
            else:
                break
        found.append((olds, news))
    return found


def _permuted(g: Ties, node: fx.Node) -> Dims:
    x = g.dims(_args(node)[0])
    return [x[int(d)] for d in _args(node)[1]]


def _transposed(g: Ties, node: fx.Node) -> Dims:
    x = g.dims(_args(node)[0])
    a, b = (int(_args(node)[1]), int(_args(node)[2])) if len(_args(node)) > 1 else (-2, -1)
    x[a], x[b] = x[b], x[a]
    return x


def _unsqueezed(g: Ties, node: fx.Node) -> Dims:
    x, at = g.dims(_args(node)[0]), int(_args(node)[1])
    x.insert(at if at >= 0 else len(x) + 1 + at, None)
    return x


def _squeezed(g: Ties, node: fx.Node) -> Dims:
    x, sizes = g.dims(_args(node)[0]), shape_of(_args(node)[0])
    given = _args(node)[1] if len(_args(node)) > 1 else range(len(x))
    over = {int(d) % len(x) for d in ([given] if isinstance(given, int) else given)}
    return [nodes for d, nodes in enumerate(x) if d not in over or sizes[d] != 1]


def _expanded(g: Ties, node: fx.Node) -> Dims:
    x, before, after = g.dims(_args(node)[0]), shape_of(_args(node)[0]), shape_of(node)
    x = [*[None] * (len(after) - len(before)), *x]
    sizes = [1] * (len(after) - len(before)) + list(before)
    for d, size in enumerate(after):
        if sizes[d] != size:
            g.keep(x[d])
            x[d] = None
    return x


_SAME = """relu relu_ gelu silu silu_ sigmoid tanh hardswish hardswish_ hardsigmoid hardtanh
hardtanh_ leaky_relu elu celu selu mish softplus clamp clamp_min clamp_max abs neg exp log sqrt
rsqrt square reciprocal erf sin cos sign floor ceil round isnan isinf logical_not bitwise_not
dropout alias clone contiguous detach detach_ lift_fresh_copy to _to_copy"""
_BROADCAST = """add add_ sub rsub mul mul_ div pow where maximum minimum eq ne lt le gt ge
logical_and logical_or bitwise_and bitwise_or __and__ __or__"""
_POOLS = """max_pool1d max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
upsample_nearest1d upsample_linear1d upsample_nearest3d upsample_trilinear3d max_pool3d avg_pool3d
_upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"""

HANDLERS: dict[str, Callable[[Ties, fx.Node], Any]] = {
    **dict.fromkeys(_SAME.split(), _same),
    **dict.fromkeys(_BROADCAST.split(), _elementwise),
    **dict.fromkeys(_POOLS.split(), _pool),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _conv),
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduced),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax"), _softmax),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten"), _reshaped),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(("transpose", "t"), _transposed),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transposed),
    "_assert_tensor_metadata": _checked,
    "linear": _linear,
    "addmm": _addmm,
    "scaled_dot_product_attention": _attention,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
    "cat": _cat,
    "slice": _sliced,
    "select": _selected,
    "permute": _permuted,
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    "expand": _expanded,
}


def _args(node: fx.Node) -> Any:
    """Its arguments, whose types the operator knows."""
    return node.args


def _dim(node: fx.Node) -> Any:
    """The dimension that it names, 0 where it names none."""
    return node.kwargs.get("dim", 0)
