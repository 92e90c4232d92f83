"""Operators of ONNX files one at a time: they give what onnxruntime gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sprue.formats.onnx_import import read_onnx

F, N = np.float32, np.int64


def made(
    kind: str,
    x: np.ndarray[Any, Any],
    constants: tuple[Any, ...] = (),
    opset: int = 17,
    outputs: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """A file of one operator, whose other inputs are constants; None: one that is left out."""
    names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, ["x", *names], results, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_empty_tensor_value_info(n) for n in results],
        [numpy_helper.from_array(c, n) for c, n in zip(constants, names, strict=True) if n],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def reference(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def rand(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).uniform(low, high, shape).astype(F)


X = rand(1, 4, 7, 6)
W = rand(6, 4, 3, 3)
V = rand(2, 3, 5)
UP = np.array([1, 1, 2, 2], F)
ODD = np.array([1, 1, 1.7, 0.6], F)
SIZE = np.array([1, 4, 5, 11], N)
PLUS = rand(2, 3, 5, low=0.1)
K3 = {"kernel_shape": [3, 3]}

CASES: dict[str, tuple[Any, ...]] = {
    # name -> operator, input, constants, options
    "conv": ("Conv", X, (W, rand(6)), {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    "conv uneven": ("Conv", X, (W,), {"pads": [0, 1, 2, 1], "strides": [2, 2]}),
    "conv same": ("Conv", X, (W,), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv same lower": ("Conv", X, (W,), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "conv dilated": ("Conv", X, (W,), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "conv groups": ("Conv", X, (rand(8, 2, 3, 3),), {"group": 2}),
    "conv 1d": ("Conv", V, (rand(4, 3, 3),), {"pads": [2, 0]}),
    "conv 3d": ("Conv", rand(1, 2, 4, 4, 4), (rand(3, 2, 2, 2, 2),), {}),
    "turned": ("ConvTranspose", X, (rand(4, 5, 3, 3), rand(5)), {"strides": [2, 2]}),
    "turned more": (
        "ConvTranspose",
        X,
        (rand(4, 5, 3, 3),),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "turned uneven": ("ConvTranspose", X, (rand(4, 5, 3, 3),), {"pads": [0, 1, 2, 0]}),
    "gemm": ("Gemm", rand(3, 4), (rand(4, 5), rand(5)), {"alpha": 0.5, "beta": 2.0}),
    "gemm turned": ("Gemm", rand(3, 4), (rand(5, 4), rand(1, 5)), {"transB": 1}),
    "gemm first": ("Gemm", rand(4, 3), (rand(4, 5),), {"transA": 1}),
    "gemm one": ("Gemm", rand(3, 4), (rand(4, 5), rand(1)), {}),
    "matmul": ("MatMul", V, (rand(5, 4),), {}),
    "matmul 3d": ("MatMul", V, (rand(2, 5, 4),), {}),
    "batch norm": ("BatchNormalization", X, (rand(4), rand(4), rand(4), rand(4, low=0.5)), {}),
    "batch norm 2d": (
        "BatchNormalization",
        rand(3, 4),
        (rand(4), rand(4), rand(4), rand(4, low=0.5)),
        {"epsilon": 0.1},
    ),
    "layer norm": ("LayerNormalization", V, (rand(5), rand(5)), {}),
    "layer norm 2": ("LayerNormalization", V, (rand(3, 5),), {"axis": 1}),
    "instance norm": ("InstanceNormalization", X, (rand(4), rand(4)), {}),
    "group norm": ("GroupNormalization", X, (rand(4), rand(4)), {"num_groups": 2, "opset": 21}),
    "pool": ("MaxPool", X, (), {**K3, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "pool ceil": ("MaxPool", X, (), {**K3, "strides": [2, 2], "ceil_mode": 1}),
    "pool uneven": ("MaxPool", X, (), {**K3, "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    "pool uneven ceil": (
        "MaxPool",
        X,
        (),
        {**K3, "strides": [2, 2], "pads": [0, 1, 1, 0], "ceil_mode": 1},
    ),
    "pool dilated": ("MaxPool", X, (), {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    "pool same": ("MaxPool", X, (), {**K3, "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "pool 1d": ("MaxPool", V, (), {"kernel_shape": [2]}),
    "mean pool": ("AveragePool", X, (), {**K3, "pads": [1, 1, 1, 1]}),
    "mean pool all": ("AveragePool", X, (), {**K3, "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "mean pool uneven": ("AveragePool", X, (), {**K3, "pads": [0, 0, 1, 1], "strides": [2, 2]}),
    "mean pool ceil": ("AveragePool", X, (), {**K3, "strides": [2, 2], "ceil_mode": 1}),
    "global": ("GlobalAveragePool", X, (), {}),
    "global max": ("GlobalMaxPool", X, (), {}),
    "lrn": ("LRN", X, (), {"size": 3, "alpha": 0.1}),
    "nearest": (
        "Resize",
        X,
        (None, UP),
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
    ),
    "nearest default": ("Resize", X, (None, UP), {}),
    "nearest odd": ("Resize", X, (None, ODD), {}),
    "nearest ceil": ("Resize", X, (None, None, SIZE), {"nearest_mode": "ceil"}),
    "nearest corners": (
        "Resize",
        X,
        (None, None, SIZE),
        {"coordinate_transformation_mode": "align_corners"},
    ),
    "linear": ("Resize", X, (None, UP), {"mode": "linear"}),
    "linear odd": ("Resize", X, (None, ODD), {"mode": "linear"}),
    "linear sizes": (
        "Resize",
        X,
        (None, None, SIZE),
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    "linear corners": (
        "Resize",
        X,
        (None, None, SIZE),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    "linear asymmetric": (
        "Resize",
        X,
        (None, UP),
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    ),
    "cubic": ("Resize", X, (None, None, SIZE), {"mode": "cubic"}),
    "cubic outside": (
        "Resize",
        X,
        (None, UP),
        {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5},
    ),
    "resize 10": ("Resize", X, (UP,), {"mode": "nearest", "opset": 10}),
    "upsample": ("Upsample", X, (UP,), {"mode": "nearest", "opset": 9}),
    "reshape": ("Reshape", V, (np.array([0, -1], N),), {}),
    "reshape split": ("Reshape", V, (np.array([2, 3, 5, 1], N),), {}),
    "reshape mixed": ("Reshape", V, (np.array([5, 6], N),), {}),
    "reshape zero": ("Reshape", V, (np.array([3, 10], N),), {"allowzero": 1}),
    "flatten": ("Flatten", X, (), {"axis": 2}),
    "flatten 0": ("Flatten", V, (), {"axis": 0}),
    "flatten -1": ("Flatten", X, (), {"axis": -1}),
    "transpose": ("Transpose", V, (), {}),
    "transpose 2": ("Transpose", V, (), {"perm": [1, 2, 0]}),
    "squeeze": ("Squeeze", rand(2, 1, 3, 1), (), {}),
    "squeeze -1": ("Squeeze", rand(2, 1, 3, 1), (np.array([-1], N),), {}),
    "squeeze 11": ("Squeeze", rand(2, 1, 3, 1), (), {"axes": [1], "opset": 11}),
    "unsqueeze": ("Unsqueeze", V, (np.array([0, -1], N),), {}),
    "unsqueeze 11": ("Unsqueeze", V, (), {"axes": [1, 3], "opset": 11}),
    "split": ("Split", V, (np.array([1, 4], N),), {"axis": 2, "outputs": 2}),
    "split even": ("Split", V, (), {"axis": 2, "outputs": 2, "num_outputs": 2, "opset": 18}),
    "split 11": ("Split", V, (), {"axis": -1, "split": [2, 3], "outputs": 2, "opset": 11}),
    "slice": ("Slice", V, (np.array([1, -4], N), np.array([9, -1], N), np.array([1, 2], N)), {}),
    "slice steps": (
        "Slice",
        V,
        (np.array([0], N), np.array([2**62], N), np.array([-1], N), np.array([2], N)),
        {},
    ),
    "slice back": (
        "Slice",
        V,
        (np.array([-1], N), np.array([-(2**62)], N), np.array([2], N), np.array([-2], N)),
        {},
    ),
    "slice back some": (
        "Slice",
        V,
        (np.array([3], N), np.array([0], N), np.array([2], N), np.array([-1], N)),
        {},
    ),
    "slice 9": ("Slice", V, (), {"starts": [1], "ends": [3], "axes": [2], "opset": 9}),
    "gather": ("Gather", V, (np.array([[0, -1], [2, 1]], N),), {"axis": 2}),
    "gather one": ("Gather", V, (np.array(-1, N),), {"axis": 1}),
    "gather elements": ("GatherElements", V, (np.array([[[0, -1, 2]]], N),), {"axis": 2}),
    "gather nd": ("GatherND", V, (np.array([[0, 1], [1, 2]], N),), {}),
    "scatter nd": ("ScatterND", V, (np.array([[1, 2]], N), rand(1, 5)), {}),
    "scatter": ("ScatterElements", V, (np.array([[[1, 3]]], N), rand(1, 1, 2)), {"axis": 2}),
    "expand": ("Expand", rand(2, 1, 5), (np.array([4, 1, 3, 1], N),), {}),
    "tile": ("Tile", V, (np.array([1, 2, 3], N),), {}),
    "pad": ("Pad", V, (np.array([0, 1, 0, 0, 0, 2], N), np.array(1.5, F)), {}),
    "pad less": ("Pad", V, (np.array([0, -1, 0, 0, 0, 2], N),), {}),
    "pad reflect": ("Pad", X, (np.array([0, 0, 1, 2, 0, 0, 1, 0], N),), {"mode": "reflect"}),
    "pad edge": ("Pad", X, (np.array([0, 0, 1, 2, 0, 0, 1, 0], N),), {"mode": "edge"}),
    "pad axes": ("Pad", V, (np.array([1, 2], N), None, np.array([-1], N)), {"opset": 18}),
    "pad 9": ("Pad", V, (), {"pads": [0, 0, 1, 0, 0, 1], "value": 2.0, "opset": 9}),
    "to space": ("DepthToSpace", X, (), {"blocksize": 2}),
    "to space crd": ("DepthToSpace", X, (), {"blocksize": 2, "mode": "CRD"}),
    "to depth": ("SpaceToDepth", rand(1, 2, 4, 6), (), {"blocksize": 2}),
    "trilu": ("Trilu", rand(2, 4, 4), (np.array(1, N),), {"upper": 0}),
    "top k": ("TopK", V, (np.array([2], N),), {"axis": 1, "outputs": 2}),
    "top k low": ("TopK", V, (np.array([2], N),), {"largest": 0, "outputs": 2}),
    "argmax": ("ArgMax", V, (), {"axis": 1, "keepdims": 0}),
    "argmin": ("ArgMin", V, (), {"axis": -1}),
    "argmax last": ("ArgMax", np.sign(V), (), {"axis": 2, "select_last_index": 1}),
    "cumsum": ("CumSum", V, (np.array(1, N),), {"reverse": 1, "exclusive": 1}),
    "softmax": ("Softmax", V, (), {"axis": 1}),
    "softmax 11": ("Softmax", V, (), {"opset": 11}),
    "log softmax": ("LogSoftmax", V, (), {}),
    "mean": ("ReduceMean", V, (), {"axes": [1, -1], "keepdims": 0}),
    "mean 18": ("ReduceMean", V, (np.array([1], N),), {"opset": 18}),
    "mean all": ("ReduceMean", V, (), {}),
    "sum": ("ReduceSum", V, (np.array([-1], N),), {"keepdims": 0}),
    "sum none": ("ReduceSum", V, (), {"noop_with_empty_axes": 1}),
    "reduced max": ("ReduceMax", V, (), {"axes": [0]}),
    "reduced min": ("ReduceMin", V, (), {"axes": [2]}),
    "reduced product": ("ReduceProd", V, (), {"axes": [0, 2]}),
    "l1": ("ReduceL1", V, (), {"axes": [2]}),
    "l2": ("ReduceL2", V, (), {"axes": [2]}),
    "log sum exp": ("ReduceLogSumExp", V, (), {"axes": [1]}),
    "sum square": ("ReduceSumSquare", V, (), {"axes": [1]}),
    "lp norm": ("LpNormalization", V, (), {"axis": 1, "p": 2}),
    "clip": ("Clip", V, (np.array(-0.5, F), np.array(1.0, F)), {}),
    "clip high": ("Clip", V, (None, np.array(1.0, F)), {}),
    "clip 6": ("Clip", V, (), {"min": 0.0, "max": 1.0, "opset": 7}),
    "leaky": ("LeakyRelu", V, (), {"alpha": 0.2}),
    "prelu": ("PRelu", X, (rand(4, 1, 1),), {}),
    "elu": ("Elu", V, (), {"alpha": 0.7}),
    "celu": ("Celu", V, (), {"alpha": 0.7}),
    "selu": ("Selu", V, (), {}),
    "hard sigmoid": ("HardSigmoid", V, (), {}),
    "hard sigmoid 6": ("HardSigmoid", V, (), {"alpha": 1 / 6, "beta": 0.5}),
    "hard swish": ("HardSwish", V, (), {}),
    "gelu": ("Gelu", V, (), {"opset": 20}),
    "gelu tanh": ("Gelu", V, (), {"approximate": "tanh", "opset": 20}),
    "mish": ("Mish", V, (), {"opset": 18}),
    "thresholded": ("ThresholdedRelu", V, (), {"alpha": 0.5}),
    "shrink": ("Shrink", V, (), {"lambd": 0.5, "bias": 0.1}),
    "add": ("Add", V, (rand(3, 1),), {}),
    "sub": ("Sub", V, (np.array([2.0], F),), {}),
    "more axes": ("Mul", rand(5), (rand(1, 1, 1),), {}),
    "div": ("Div", V, (rand(5, low=0.5),), {}),
    "div integers": ("Div", np.array([-7, 7], N), (np.array([2], N),), {}),
    "mod": ("Mod", np.array([-7, 7], N), (np.array([3], N),), {}),
    "pow": ("Pow", PLUS, (np.array(1.5, F),), {}),
    "pow square": ("Pow", V, (np.array(2, N),), {}),
    "max": ("Max", V, (rand(5), np.array(0.5, F)), {}),
    "min": ("Min", V, (rand(3, 1),), {}),
    "where": ("Where", V > 0, (rand(5), np.array(0.5, F)), {}),
    "equal": ("Equal", np.sign(V), (np.array(1.0, F),), {}),
    "greater": ("GreaterOrEqual", V, (np.array(0.5, F),), {}),
    "and": ("And", V > 0, (np.array([True, False, True, True, False]),), {}),
    "cast": ("Cast", V, (), {"to": TensorProto.INT64}),
    "cast bool": ("Cast", V, (), {"to": TensorProto.BOOL}),
    "shape": ("Shape", V, (), {"start": 1}),
    "size": ("Size", V, (), {}),
    "of shape": ("ConstantOfShape", np.array([2, 3], N), (), {}),
    "one hot": ("OneHot", np.array([0, 2, -1], N), (np.array(3, N), np.array([0, 1], F)), {}),
    "einsum": ("Einsum", V, (rand(2, 5, 4),), {"equation": "bij,bjk->bik"}),
    "is nan": ("IsNaN", V, (), {}),
    "is inf": ("IsInf", V, (), {}),
    "dropout": ("Dropout", V, (), {}),
    **{
        kind: (kind, V, (), {})
        for kind in (
            *("Relu", "Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Exp", "Neg", "Abs"),
            *("Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Identity"),
        )
    },
    "sqrt": ("Sqrt", PLUS, (), {}),
    "log": ("Log", PLUS, (), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_gives_what_onnxruntime_gives(name: str, tmp_path: Path) -> None:
    kind, x, constants, options = CASES[name]
    model = made(kind, x, constants, **options)
    expected = reference(model, x)
    path = tmp_path / "one.onnx"
    onnx.save(model, path)
    with torch.no_grad():
        found = read_onnx(path)(torch.from_numpy(x))
    for y, r in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        assert y.shape == r.shape
        assert y.numpy().dtype == r.dtype
        np.testing.assert_allclose(y.numpy(), r, rtol=1e-4, atol=1e-5 * np.abs(r).max(initial=1))
