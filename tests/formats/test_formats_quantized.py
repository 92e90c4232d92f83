"""The same network in every precision of both engines, beside itself in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sprue.errors import InputError
from sprue.formats.onnx_export import to_onnx
from sprue.plan import precision, sparing
from sprue.runtime.engines import open_session
from sprue.structure.readings import CLASSES


@pytest.fixture(scope="module")
def source(network: Any, tmp_path_factory: pytest.TempPathFactory) -> precision.Source:
    path = tmp_path_factory.mktemp("source") / "m.onnx"
    to_onnx(network.model, (torch.zeros(2, 3, 8, 8),), ("x",), ((0,),), path)
    rng = np.random.default_rng(0)
    images = rng.random((24, 1, 3, 8, 8)).astype(np.float32)
    return precision.Source(path, ("x",), [(image,) for image in images], False)


def away(source: precision.Source, path: Path, engine: str) -> float:
    """Error of the answers, as a share of their spread."""
    x = np.concatenate([arrays[0] for arrays in source.calibration])
    a = open_session(source.path, ("x",)).run([x])
    b = open_session(path, ("x",), engine=engine).run([x])
    return float(np.square(a - b).mean() / a.var(0).mean())


KINDS = [
    *(("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("onnxruntime", "int8-dynamic")),
    *(("onnxruntime", "w4"), ("openvino", "fp32"), ("openvino", "int8"), ("openvino", "w8")),
]


@pytest.mark.parametrize(("engine", "kind"), KINDS)
def test_a_precision_answers_nearly_the_same(
    source: precision.Source, engine: str, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"m{precision.ending(engine)}"
    precision.write(engine, kind, source, path, portable=not precision.vnni())
    most = {"fp32": 1e-9, "w8": 0.05}.get(kind, 0.1)
    assert away(source, path, engine) < most
    if kind == "int8":
        assert precision.bytes_of(path) < 0.7 * source.path.stat().st_size
        assert precision.saturation(path).matrices == 3


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_portable_weights_cannot_saturate(
    source: precision.Source, engine: str, tmp_path: Path
) -> None:
    """Seven bits: two products of 255 and 64 fit 16 bits, two of 255 and 127 do not."""
    found = {}
    for portable in (False, True):
        path = tmp_path / f"{portable}{precision.ending(engine)}"
        precision.write(engine, "int8", source, path, portable=portable)
        found[portable] = precision.saturation(path)
        if portable or precision.vnni():  # elsewhere the sums of the others do saturate
            assert away(source, path, engine) < 0.2
    assert not found[False].safe
    assert found[True].safe
    assert found[True].worst <= 2 * 255 * 64


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_spared_layers_stay_in_float32(
    network: Any, source: precision.Source, engine: str, tmp_path: Path
) -> None:
    batch = (torch.from_numpy(np.concatenate([a[0] for a in source.calibration])),)
    ranked = sparing.most_sensitive(network.model, batch, CLASSES, source.path)
    assert len(ranked) == 3
    path = tmp_path / f"m{precision.ending(engine)}"
    precision.write(engine, "int8", source, path, portable=False, spared=ranked[:2])
    assert precision.saturation(path).matrices == 1


def test_the_layer_that_suffers_most_comes_first(network: Any, source: precision.Source) -> None:
    """One weight a thousand times as large as the others leaves these no bits."""
    import copy

    spoiled = copy.deepcopy(network.model)
    with torch.no_grad():
        spoiled.second.weight[:, 0, 0, 0] = 60.0
        spoiled.second.bias -= 60.0 * 0.1
    batch = (torch.from_numpy(np.concatenate([a[0] for a in source.calibration])),)
    ranked = sparing.most_sensitive(spoiled, batch, CLASSES, source.path)
    plain = sparing.most_sensitive(network.model, batch, CLASSES, source.path)
    import onnx

    convolutions = [n.name for n in onnx.load(source.path).graph.node if n.op_type == "Conv"]
    assert ranked[0] == convolutions[1]
    assert sorted(ranked) == sorted(plain)


def test_what_an_engine_does_not_store(source: precision.Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="onnxruntime does not store w8"):
        precision.write("onnxruntime", "w8", source, tmp_path / "m.onnx", portable=False)
    with pytest.raises(InputError, match="expected a target among"):
        precision.offered("tflite", False)


def test_an_openvino_file_holds_no_more_than_it_takes(
    source: precision.Source, tmp_path: Path
) -> None:
    """A constant is stored once; shapes are said of the inputs alone, and nothing of its making."""
    from xml.etree import ElementTree

    path = tmp_path / "m.xml"
    precision.write("openvino", "int8", source, path, portable=False)
    root = ElementTree.parse(path).getroot()
    layers = root.findall("layers/layer")
    assert {x.get("type") for x in layers if x.find(".//dim") is not None} == {"Parameter"}
    assert root.find(".//rt_info") is None
    weights = path.with_suffix(".bin").read_bytes()
    small = []
    for data in (x.find("data") for x in layers if x.get("type") == "Const"):
        assert data is not None
        start, size = int(data.get("offset", 0)), int(data.get("size", 0))
        if size <= 64:
            held = data.get("element_type"), data.get("shape"), weights[start : start + size]
            small.append(held)
    assert len(small) == len(set(small)) > 3
