"""OpenVINO IR: a network as it is, in 8 bits, or with weights of 8 or 4 bits (by NNCF).

W8A8 is NNCF's post-training quantization: weights for each output channel, activations for each
tensor, bias correction, and SmoothQuant (Xiao et al. 2023, arXiv:2211.10438) for transformers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError
from sprue.extras import missing
from sprue.formats.openvino_pack import is_codes, pack
from sprue.runtime import engines

Arrays = Sequence[NDArray[Any]]  # arguments of one call
GROUP = 64  # weights that share a scale of 4 bits
_SMALL = 64  # bytes


def plain(source: Path, path: Path) -> None:
    """An ONNX file as IR, float32.

    Args:
        source: .onnx.
        path: .xml to make; the weights lie beside it as .bin.

    Raises:
        InputError: OpenVINO is not installed, or does not take the file.
    """
    _save(_read(source), path)


def int8(
    source: Path,
    path: Path,
    calibration: Sequence[Arrays],
    names: Sequence[str],
    *,
    transformer: bool,
    portable: bool,
    spared: Sequence[str] = (),
) -> None:
    """W8A8, where the engine can compute it.

    Args:
        source: .onnx, float32.
        path: .xml to make.
        calibration: arguments, for ranges and bias correction.
        names: of the arguments.
        transformer: whether attention is in it; then SmoothQuant moves outliers into the weights.
        portable: weights of 7 bits, which no processor without VNNI adds up past 16 bits.
        spared: names of operations that stay in float32.

    Raises:
        InputError: as for `plain`, or NNCF is not installed.
    """
    nncf = _nncf()
    from nncf.quantization.advanced_parameters import OverflowFix

    fix = OverflowFix.ENABLE if portable else OverflowFix.DISABLE
    model = _read(source)
    with _quiet():
        made = nncf.quantize(
            model,
            nncf.Dataset([dict(zip(names, arrays, strict=True)) for arrays in calibration]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            ignored_scope=_scope(nncf, spared),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )
    pack(made)
    _save(made, path)


def weights(
    source: Path, path: Path, bits: int, calibration: Sequence[Arrays], names: Sequence[str]
) -> None:
    """Weights of 8 or 4 bits, activations as they are.

    Args:
        bits: 8, a scale for each row; 4, a scale for each GROUP, searched with the data.

    Raises:
        InputError: as for `int8`, or nothing in it can be stored so.
    """
    nncf = _nncf()
    modes = nncf.CompressWeightsMode
    more: dict[str, Any] = {}
    if bits == 4:
        data = nncf.Dataset([dict(zip(names, arrays, strict=True)) for arrays in calibration])
        more = {"ratio": 1.0, "group_size": GROUP, "all_layers": True, "dataset": data}
        more |= {"scale_estimation": True, "subset_size": len(calibration)}
    try:
        with _quiet():
            mode = modes.INT4_ASYM if bits == 4 else modes.INT8_ASYM
            made = nncf.compress_weights(_read(source), mode=mode, **more)
    except Exception as error:  # NNCF says in many ways that a width does not divide
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"weights of {bits} bits: {reason}") from error
    _save(made, path)


def weights_of(path: Path) -> dict[str, NDArray[np.int8]]:
    """The weights that a file holds in all 8 bits, by name, [out, ...].

    Those that it stores in 4 or 6 are as narrow in the engine: at most 63 on either side.
    """
    model = engines.core_of_openvino().read_model(str(path))
    found = {}
    for op in model.get_ops():
        if is_codes(op):
            found[op.get_friendly_name()] = np.array(op.data)
    return found


def _scope(nncf: Any, spared: Sequence[str]) -> Any:
    """Nodes by name, and what OpenVINO made of them: NAME/WithoutBiases."""
    if not spared:
        return None
    return nncf.IgnoredScope(patterns=[f"^{re.escape(n)}(/.*)?$" for n in spared], validate=False)


def _read(source: Path) -> Any:
    """A graph whose constants are computed: of a dynamic one each bias else is four operations."""
    try:
        model = engines.core_of_openvino().read_model(str(source))
        from openvino._offline_transformations import apply_moc_transformations

        apply_moc_transformations(model, cf=True)
        return model
    except ImportError as error:
        raise _missing(error) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"openvino cannot read {source}: {reason}") from error


def _save(model: Any, path: Path) -> None:
    with engines.unreported():
        import openvino

    _share_constants(model)
    for i, op in enumerate(model.get_ordered_ops()):
        if op.get_type_name() not in ("Parameter", "Result"):
            op.set_friendly_name(f"n{i}")
            for output in op.outputs():
                if "output" not in output.get_names():
                    output.get_tensor().set_names(set())
    openvino.save_model(model, str(path), compress_to_fp16=False)
    path.write_bytes(_compact(path.read_bytes()))


def _share_constants(model: Any) -> None:
    """Small constants of the same bytes become one: every range of activations holds four."""
    first: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
    for op in model.get_ordered_ops():
        if op.get_type_name() != "Constant" or op.get_byte_size() > _SMALL:
            continue
        kind = op.get_element_type().get_type_name()
        key = kind, tuple(op.get_output_shape(0)), np.array(op.data).tobytes()
        kept = first.setdefault(key, op)
        if kept is not op:
            for target in list(op.output(0).get_target_inputs()):
                target.replace_source_output(kept.output(0))


def _compact(xml: bytes) -> bytes:
    """The same graph without what readers infer or ignore: half of the file of a small network.

    That is indentation, how it was made, and the shapes of all but the network's inputs.
    """
    root = ElementTree.fromstring(xml)
    for element in root.iter():
        element.tail = None
        element.text = (element.text or "").strip() or None
        for child in element.findall("rt_info"):
            element.remove(child)
    for layer in root.iter("layer"):
        if layer.get("type") == "Parameter":
            continue
        for port in layer.iter("port"):
            for dim in port.findall("dim"):
                port.remove(dim)
        for port in layer.findall("input/port"):
            port.attrib.pop("precision", None)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _nncf() -> Any:
    try:
        with _quiet(), engines.unreported():
            import nncf
    except ImportError as error:
        raise _missing(error) from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def _missing(error: ImportError) -> InputError:
    return missing(error.name or "openvino", "openvino", "writing OpenVINO files")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF draws bars of its own."""
    import warnings

    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
