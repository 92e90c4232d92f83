"""An ONNX file, read and checked: what cannot be imported is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError
from sprue.extras import needed

OLDEST = 7  # before, operators broadcast by an attribute of their own
_CONTROL = {"If", "Loop", "Scan", "SequenceMap"}
_QUANTIZED = ("Quantize", "Dequantize", "QLinear", "QAttention", "QGemm", "QMoE", "DynamicQuant")
_QUANTIZED_ENDS = ("Integer", "NBits", "Bnb4", "FpQ4", "IntegerToFloat")
_STANDARD = ("", "ai.onnx")


def load(path: Path, known: Collection[str]) -> Any:
    """The model of a file: local functions inlined, external data in place.

    Args:
        path: of the file.
        known: operators that can be imported.

    Raises:
        InputError: no such file, not ONNX, too new, quantized, or with what is not known.
    """
    model = _parsed(path)
    _check_version(model, path)
    _check_kinds(model, path)
    _with_external(model, path)
    model = _inlined(model, known, path)
    unknown = sorted({_named(n) for n in model.graph.node if not _is_known(n, known)})
    if unknown:
        raise InputError(
            f"{path} has operators that are not known here: {', '.join(unknown[:5])}; export the "
            "network alone, without what comes after it (such as non-maximum suppression)"
        )
    return model


def array_of(tensor: Any, path: Path) -> NDArray[Any]:
    """A tensor of the file; floats of every width as float32.

    Raises:
        InputError: data of another size than the shape says, NaN, or infinite weights.
    """
    from onnx import numpy_helper

    name = tensor.name or "a constant"
    try:
        found = np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # whatever a broken tensor makes numpy say
        raise InputError(f"{path}: the tensor {name} cannot be read: {line_of(error)}") from error
    if found.dtype.kind in "OSU":
        raise InputError(f"{path}: the tensor {name} holds text, where numbers were expected")
    if found.dtype.kind in "biu":
        return found
    with np.errstate(over="ignore"):  # the lowest of float64, in masks
        found = np.asarray(found.astype(np.float32))
    if np.isnan(found).any():
        raise InputError(f"{path}: the tensor {name} holds NaN: the file is damaged")
    return found


def _onnx() -> Any:
    needed("onnx.inliner", "onnx", "reading .onnx files")
    return needed("onnx", "onnx", "reading .onnx files")


def _parsed(path: Path) -> Any:
    onnx = _onnx()
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf has errors of its own
        raise InputError(
            f"{path} is no readable ONNX file (truncated or damaged?): {line_of(error)}"
        ) from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise InputError(f"{path} is no readable ONNX file: there is no network in it")
    return model


def _check_version(model: Any, path: Path) -> None:
    newest = _onnx().defs.onnx_opset_version()
    opset = opset_of(model)
    if opset > newest:
        raise InputError(
            f"{path}: the file uses opset {opset}; this version knows up to {newest}: export it "
            f"again with opset_version={newest} or update onnx"
        )
    if opset < OLDEST:
        raise InputError(
            f"{path}: the file uses opset {opset}; expected {OLDEST} to {newest}: export it again "
            "with opset_version=17"
        )


def opset_of(model: Any) -> int:
    """The version of the standard operators that a model uses."""
    return max((int(o.version) for o in model.opset_import if o.domain in _STANDARD), default=0)


def _check_kinds(model: Any, path: Path) -> None:
    for node in _nodes(model):
        kind = node.op_type
        if kind.startswith(_QUANTIZED) or kind.endswith(_QUANTIZED_ENDS):
            raise InputError(
                f"{path} is already quantized ({kind}): expected the float32 file that it was made "
                "from"
            )
        if kind in _CONTROL:
            raise InputError(
                f"{path} has control flow ({kind}), which is not followed: export the network for "
                "fixed choices, with torch.onnx.export(..., dynamo=True)"
            )


def _nodes(model: Any) -> Iterator[Any]:
    for owner in (model.graph, *model.functions):
        yield from owner.node


def _with_external(model: Any, path: Path) -> None:
    """Put data that lie in files beside the model into it."""
    from onnx import external_data_helper as external

    folder = path.parent.resolve()
    for tensor in _tensors(model):
        if not external.uses_external_data(tensor):
            continue
        told = {entry.key: entry.value for entry in tensor.external_data}
        beside = (folder / told.get("location", "")).resolve()
        if folder not in beside.parents:
            raise InputError(
                f"{path}: the data of {tensor.name} are said to lie outside its folder, in "
                f"{told.get('location')!r}: refused"
            )
        if not beside.is_file():
            raise InputError(
                f"{path}: the data of {tensor.name} are missing: expected the file {beside.name} "
                "beside it"
            )
        try:
            external.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # too short, a link, no permission
            raise InputError(
                f"{path}: the data of {tensor.name} cannot be read from {beside.name}: "
                f"{line_of(error)}"
            ) from error
        tensor.data_location = 0
        del tensor.external_data[:]


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _inlined(model: Any, known: Collection[str], path: Path) -> Any:
    """Functions of the file, and standard ones that are not known here, as what they consist of."""
    inliner = _onnx().inliner
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        return _lowered(model, known)
    except Exception as error:  # of native code
        raise InputError(f"{path}: its functions cannot be followed: {line_of(error)}") from error


def _lowered(model: Any, known: Collection[str]) -> Any:
    """Standard operators that are functions of others, where they are not known themselves."""
    onnx = _onnx()
    rest = sorted({n.op_type for n in model.graph.node if not _is_known(n, known)})
    standard = [
        kind
        for kind in rest
        if onnx.defs.has(kind)
        and (s := onnx.defs.get_schema(kind, opset_of(model)))
        and (s.has_function or s.has_context_dependent_function)
    ]
    if not standard or not hasattr(onnx.inliner, "inline_selected_functions"):
        return model
    typed = onnx.shape_inference.infer_shapes(model)
    ids = [("", kind) for kind in standard]
    return onnx.inliner.inline_selected_functions(typed, ids, inline_schema_functions=True)


def _is_known(node: Any, known: Collection[str]) -> bool:
    return node.domain in _STANDARD and node.op_type in known


def _named(node: Any) -> str:
    return str(node.op_type if node.domain in _STANDARD else f"{node.domain}.{node.op_type}")


def line_of(error: BaseException) -> str:
    """What an error says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
