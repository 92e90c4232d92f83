"""ONNX with QuantizeLinear and DequantizeLinear, W8A8, and weights of 4 bits (by ONNX Runtime)."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError
from sprue.extras import needed

Arrays = Sequence[NDArray[Any]]
GROUP = 64  # weights that share a scale of 4 bits


def int8(
    source: Path,
    path: Path,
    calibration: Sequence[Arrays],
    names: Sequence[str],
    *,
    kinds: Sequence[str] | None = None,
    portable: bool = False,
    spared: Sequence[str] = (),
) -> None:
    """W8A8: weights for each output channel, activations for each tensor, asymmetric.

    Args:
        source: .onnx, float32.
        path: .onnx to make.
        calibration: arguments, for the ranges of activations.
        names: of the arguments.
        kinds: operators to quantize; None: all that the engine can.
        portable: weights of 7 bits, which no processor without VNNI adds up past 16 bits.
        spared: names of nodes that stay in float32.

    Raises:
        InputError: ONNX Runtime is not installed, or does not take the file.
    """
    tools = _tools()

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._left = iter([dict(zip(names, arrays, strict=True)) for arrays in calibration])

        def get_next(self) -> Any:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as scratch, _quiet(), _told(source):
        whole = _prepared(source, Path(scratch))
        tools.quantize_static(
            str(whole),
            str(path),
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=portable,
            weight_type=tools.QuantType.QInt8,
            activation_type=tools.QuantType.QUInt8,
            op_types_to_quantize=list(kinds) if kinds is not None else None,
            nodes_to_exclude=list(spared),
        )
    _compact(path)


def int4(source: Path, path: Path) -> None:
    """Weights of matrix products in 4 bits, a scale and a zero for each GROUP (MatMulNBits).

    Raises:
        InputError: as for `int8`.
    """
    _tools()
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _quiet(), _told(source):
        quantizer = MatMulNBitsQuantizer(
            onnx.load(source), bits=4, block_size=GROUP, is_symmetric=False, accuracy_level=4
        )
        quantizer.process()
        path.write_bytes(quantizer.model.model.SerializeToString())
    _compact(path)


def dynamic8(source: Path, path: Path, portable: bool = False) -> None:
    """Weights of 8 bits for each output channel; activations are measured as they come.

    Raises:
        InputError: as for `int8`.
    """
    tools = _tools()
    with tempfile.TemporaryDirectory() as scratch, _quiet(), _told(source):
        whole = _prepared(source, Path(scratch))
        tools.quantize_dynamic(str(whole), str(path), per_channel=True, reduce_range=portable)
    _compact(path)


def weights_of(path: Path) -> dict[str, NDArray[np.int8]]:
    """The int8 weights that a file holds, by name."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    kinds = (onnx.TensorProto.INT8,)
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type in kinds and tensor.dims
    }


def _prepared(source: Path, scratch: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole = scratch / "prepared.onnx"
    quant_pre_process(str(source), str(whole), skip_symbolic_shape=True)
    return whole


def _compact(path: Path) -> None:
    """Without descriptions, and with short names inside: a third of a small quantized file."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    outside = {v.name for v in [*graph.input, *graph.output]}
    short: dict[str, str] = {"": ""}

    def named(name: str) -> str:
        if name in outside:
            return name
        return short.setdefault(name, f"t{len(short)}")

    for node in graph.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        node.input[:] = [named(name) for name in node.input]
        node.output[:] = [named(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = named(tensor.name)
    del graph.value_info[:]
    path.write_bytes(model.SerializeToString())


def _tools() -> Any:
    needed("onnx", "onnx", "quantizing .onnx files")
    return needed("onnxruntime.quantization", "onnx", "quantizing .onnx files")


@contextlib.contextmanager
def _told(source: Path) -> Iterator[None]:
    """Failures of the library as ours."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"onnxruntime cannot quantize {source.name}: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It writes to the root logger that a model should be prepared, which it is."""
    level = logging.root.level
    logging.root.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
