"""Networks as ONNX files: what they answer, for any number of examples, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.formats.onnx_export import to_onnx
from sprue.runtime.engines import open_session

NAMES = ("a", "b")


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, *inputs: Tensor) -> Tensor:
        a, b = inputs
        return a * self.scale - b


def test_the_file_answers_for_any_number_of_examples(tmp_path: Path) -> None:
    """Also where both arguments of the example are one tensor."""
    one = torch.zeros(2, 3)
    to_onnx(Sum(), (one, one), NAMES, ((0,), (0,)), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 3)).astype(np.float32)
    for engine in ("onnxruntime", "openvino"):
        found = open_session(tmp_path / "m.onnx", NAMES, engine=engine).run([a, b])
        np.testing.assert_allclose(found, a * [1, 2, 3] - b, rtol=1e-5)
        fixed = open_session(tmp_path / "m.onnx", NAMES, engine=engine, shapes=[(5, 3), (5, 3)])
        np.testing.assert_allclose(fixed.run([a, b]), a * [1, 2, 3] - b, rtol=1e-5)


def test_nothing_of_the_source_code_is_told(tmp_path: Path) -> None:
    to_onnx(Sum(), (torch.zeros(2, 3),) * 2, NAMES, ((0,), (0,)), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert b".py" not in (tmp_path / "m.onnx").read_bytes()


class Fickle(nn.Module):
    """Does something else once it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.compiler.is_exporting() else x * 3


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    x = (torch.ones(2, 3),)
    with pytest.raises(InputError, match="answers otherwise than the original"):
        to_onnx(Fickle(), x, ("x",), ((0,),), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="cannot be exported to ONNX"):
        to_onnx(Odd(), x, ("x",), ((0,),), tmp_path / "m.onnx")


def test_files_that_no_engine_takes(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    (tmp_path / "m.xml").write_text("<net>")
    for name in ("m.onnx", "m.xml"):
        with pytest.raises(InputError, match=f"cannot run .*{name}"):
            open_session(tmp_path / name, ("x",))
    with pytest.raises(InputError, match="for no known engine"):
        open_session(tmp_path / "m.tflite", ("x",))
