"""How a network can be stored for an engine: in which precision, and what its file is then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError
from sprue.formats import onnx_int8, openvino_file
from sprue.runtime.engines import ENGINES, ONNXRUNTIME, OPENVINO

Arrays = Sequence[NDArray[Any]]

FP32, INT8, DYNAMIC, W8, W4 = "fp32", "int8", "int8-dynamic", "w8", "w4"
PACKED = "int8-w4"  # computed in 8 bits, weights stored in 4 and 6 where they lie on such grids
# what engines quantize beside matrix products and convolutions saves a little time, and in
# transformers it costs far more than it saves: sums of a residual stream have outliers
_PRODUCTS = ("MatMul", "Gemm", "Conv", "Gather", "EmbedLayerNormalization")
_SATURATED = 2**15 - 1  # of the 16 bits that two products are added up in without VNNI
_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")


@dataclass(frozen=True)
class Source:
    """What is stored.

    Attributes:
        path: .onnx, float32.
        names: of the arguments.
        calibration: arguments for one example each.
        transformer: whether attention is in it.
    """

    path: Path
    names: Sequence[str]
    calibration: Sequence[Arrays] = field(repr=False)
    transformer: bool


def ending(engine: str) -> str:
    """Of the files of an engine."""
    return {ONNXRUNTIME: ".onnx", OPENVINO: ".xml"}[engine]


def offered(engine: str, transformer: bool) -> tuple[str, ...]:
    """The precisions of an engine, the fastest first as a rule."""
    if engine not in ENGINES:
        raise InputError(f"expected a target among {', '.join(ENGINES)}, got {engine!r}")
    if engine == OPENVINO:
        return (INT8, W8, W4) if transformer else (INT8,)
    return (INT8, DYNAMIC, W4) if transformer else (INT8,)


def packed(engine: str, transformer: bool) -> bool:
    """Whether an engine takes PACKED: widens weights as it loads them, and computes in 8 bits."""
    return engine == OPENVINO and not transformer


def write(
    engine: str,
    precision: str,
    source: Source,
    path: Path,
    *,
    portable: bool,
    spared: Sequence[str] = (),
) -> None:
    """Make the file of a network in a precision.

    Args:
        engine, precision: as `offered`, or FP32; or PACKED, of a source on coarser grids.
        source: what is stored.
        path: to make, with the engine's ending.
        portable: whether processors without VNNI must compute the same.
        spared: nodes of the source that stay in float32, by name.

    Raises:
        InputError: a library that is missing, or cannot store this network so.
    """
    makers: Mapping[tuple[str, str], Callable[[], None]] = {
        (ONNXRUNTIME, FP32): lambda: _copy(source.path, path),
        (ONNXRUNTIME, INT8): lambda: onnx_int8.int8(
            source.path,
            path,
            source.calibration,
            source.names,
            kinds=_PRODUCTS if source.transformer else None,
            portable=portable,
            spared=spared,
        ),
        (ONNXRUNTIME, DYNAMIC): lambda: onnx_int8.dynamic8(source.path, path, portable),
        (ONNXRUNTIME, W4): lambda: onnx_int8.int4(source.path, path),
        (OPENVINO, FP32): lambda: openvino_file.plain(source.path, path),
        (OPENVINO, INT8): lambda: openvino_file.int8(
            source.path,
            path,
            source.calibration,
            source.names,
            transformer=source.transformer,
            portable=portable,
            spared=spared,
        ),
        (OPENVINO, W8): lambda: openvino_file.weights(
            source.path, path, 8, source.calibration, source.names
        ),
        (OPENVINO, W4): lambda: openvino_file.weights(
            source.path, path, 4, source.calibration, source.names
        ),
    }
    if precision == PACKED and engine == OPENVINO:
        precision = INT8  # which sees what lies on a coarser grid
    if (engine, precision) not in makers:
        raise InputError(f"{engine} does not store {precision}")
    makers[engine, precision]()


def _copy(source: Path, path: Path) -> None:
    path.write_bytes(source.read_bytes())


def bytes_of(path: Path) -> int:
    """Of all files that belong to one: the weights of an .xml lie beside it."""
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(file.stat().st_size for file in files)


@dataclass(frozen=True)
class Saturation:
    """Whether the sums of a W8A8 file fit 16 bits, which is where processors without VNNI keep two.

    Attributes:
        matrices: of 8-bit weights that were looked at.
        worst: the largest sum that two neighboring products can come to, in units of the integers.
        safe: whether none can pass 2^15 - 1, so that every processor computes the same.
    """

    matrices: int
    worst: int
    safe: bool


def saturation(path: Path) -> Saturation:
    """Of the file as it is on disk: two products of 8 bits unsigned by 8 bits signed each."""
    read = openvino_file.weights_of if path.suffix == ".xml" else onnx_int8.weights_of
    matrices = [w for w in read(path).values() if w.ndim > 1]
    worst = max((_pairs(w) for w in matrices), default=0)
    return Saturation(len(matrices), worst, worst <= _SATURATED)


def _pairs(weights: NDArray[np.int8]) -> int:
    """Engines add up neighbors in an order of their own: the two largest of each sign may meet."""
    flat = weights.reshape(len(weights), -1).astype(np.int64)
    if flat.shape[1] < 2:
        return int(255 * np.abs(flat).max(initial=0))
    ordered = np.sort(flat, 1)
    return int(255 * max(ordered[:, -2:].sum(1).max(), -ordered[:, :2].sum(1).min(), 0))


def vnni() -> bool:
    """Whether this processor adds up 8-bit products in 32 bits."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(flag in told for flag in _FLAGS)
