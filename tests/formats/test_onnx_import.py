"""Networks from ONNX files: they answer as onnxruntime does, are cut, exported, or refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from sprue.errors import InputError
from sprue.formats.onnx_export import to_onnx
from sprue.formats.onnx_import import OnnxModule, read_onnx
from sprue.plan.prune import Pruner
from sprue.structure.readings import VECTORS
from sprue.structure.units import groups

_ASSETS = Path(os.environ.get("SPRUE_ASSETS", "/work/shared/assets"))
_YOLOX = _ASSETS / "vision" / "yolox-nano" / "yolox_nano.onnx"

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(0))


class Convolutions(nn.Module):
    """A residual block, a depthwise layer, two scales that are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.up, self.down = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 3, padding=1)
        self.depth, self.wide = (
            nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
            nn.Conv2d(8, 6, 1),
        )
        self.both, self.head = nn.Conv2d(14, 10, 3), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.norm(self.stem(x)))
        x = x + self.down(torch.relu(self.up(x)))
        low = functional.hardswish(self.wide(self.depth(x)))
        x = torch.cat([x, functional.interpolate(low, scale_factor=2.0)], 1)
        return self.head(torch.relu(self.both(x)).mean((2, 3)))


class Transformer(nn.Module):
    """Embeddings, a block of attention that is written out, and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(12, 16)
        self.norm, self.last = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.out, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        h = self.norm(x)
        q, k, v = (w(h).view(*h.shape[:2], -1, 4).transpose(1, 2) for w in (self.q, self.k, self.v))
        a = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        x = x + self.o(a.transpose(1, 2).flatten(2))
        x = x + self.out(functional.gelu(self.up(self.last(x))))
        return self.head(torch.tanh(x[:, 0]))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model


Made = tuple[nn.Module, Tensor, Path]


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("net") / "convolutions.onnx"
    model = seeded(Convolutions)
    to_onnx(model, (IMAGES,), ["x"], [(0,)], path)
    return model, IMAGES, path


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("net") / "transformer.onnx"
    model = seeded(Transformer)
    to_onnx(model, (TOKENS,), ["ids"], [(0, 1)], path)
    return model, TOKENS, path


@pytest.fixture(params=["convolutions", "transformer"])
def network(request: pytest.FixtureRequest) -> Made:
    found: Made = request.getfixturevalue(request.param)
    return found


def answers(path: Path, **inputs: Tensor) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(None, {k: x.numpy() for k, x in inputs.items()})[0]
    return found


def apart(a: Tensor, b: Any) -> float:
    """The largest difference, of the largest number."""
    return float(np.abs(a.detach().numpy() - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


def test_a_network_answers_as_onnxruntime_and_as_the_original(network: Made) -> None:
    model, x, path = network
    module = read_onnx(path)
    assert not module.training
    assert not module.fixed_batch
    assert module.input_dtypes == (x.dtype,)
    assert module.input_shapes[0][0] is None
    with torch.no_grad():
        found, expected = module(x), model(x)
    assert apart(found, answers(path, **{module.input_names[0]: x})) < 1e-4
    assert apart(found, expected) < 1e-4
    with torch.no_grad():
        assert apart(module(x[:1]), expected[:1]) < 1e-4


def test_layers_are_layers_of_torch(convolutions: Made, transformer: Made) -> None:
    def kinds(path: Path) -> dict[str, int]:
        found: dict[str, int] = {}
        for layer in read_onnx(path).children():
            found[type(layer).__name__] = found.get(type(layer).__name__, 0) + 1
        return found

    convolved = kinds(convolutions[2])
    assert (convolved["Conv2d"], convolved["Linear"]) == (6, 1)
    found = kinds(transformer[2])
    assert (found["Linear"], found["LayerNorm"], found["Embedding"]) == (7, 2, 2)


def test_groups_are_those_of_the_original(network: Made) -> None:
    model, x, path = network
    expected = sorted(len(g) for g in groups(model, (x,)) if g.read)
    assert sorted(len(g) for g in groups(read_onnx(path), (x,)) if g.read) == expected
    assert expected


def test_what_is_cut_runs_and_is_exported_again(network: Made, tmp_path: Path) -> None:
    _, x, path = network
    module = read_onnx(path)
    pruned = Pruner(module, [(x,)], VECTORS).prune(0.7, adapt=False).model
    with torch.no_grad():
        expected = pruned(x)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in module.parameters())
    if not x.is_floating_point():
        return  # exported again with two sizes that vary takes long
    again = tmp_path / "again.onnx"
    to_onnx(pruned, (x,), module.input_names, [(0,)], again, check=(x,))
    assert apart(expected, answers(again, **{module.input_names[0]: x})) < 1e-4
    with torch.no_grad():
        assert apart(read_onnx(again)(x[:2]), expected[:2]) < 1e-4


def test_a_file_for_one_example_serves_several(transformer: Made, tmp_path: Path) -> None:
    model, x, _ = transformer
    path = tmp_path / "one.onnx"
    to_onnx(model, (x[:1],), ["x"], [()], path)
    module = read_onnx(path)
    assert module.input_shapes[0][0] == 1
    assert not module.fixed_batch
    with torch.no_grad():
        assert apart(module(x), model(x)) < 1e-4


def saved(path: Path, nodes: list[Any], shape: list[Any], opset: int = 17, **weights: Any) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def test_a_bias_that_is_added_belongs_to_the_layer(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="/dense/MatMul"),
        helper.make_node("Add", ["b", "a"], ["y"]),
    ]
    w, b = np.ones((4, 3), np.float32), np.arange(3, dtype=np.float32)
    module = read_onnx(saved(tmp_path / "m.onnx", nodes, ["n", 5, 4], w=w, b=b))
    assert isinstance(module.dense_MatMul, nn.Linear)
    assert torch.equal(module.dense_MatMul.bias, torch.from_numpy(b))
    assert torch.equal(module(torch.ones(2, 5, 4)), torch.tensor([4.0, 5, 6]).expand(2, 5, 3))


def test_several_outputs_are_a_tuple(tmp_path: Path) -> None:
    nodes = [helper.make_node("Split", ["x"], ["y", "z"], axis=1)]
    path = saved(tmp_path / "m.onnx", nodes, ["n", 4])
    model = onnx.load(path)
    model.graph.output.append(helper.make_empty_tensor_value_info("z"))
    onnx.save(model, path)
    found = read_onnx(path)(torch.arange(8.0).view(2, 4))
    assert [y.tolist() for y in found] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_examples_that_are_mixed_fix_the_batch(tmp_path: Path) -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    assert read_onnx(saved(tmp_path / "m.onnx", nodes, [1, 4])).fixed_batch


def test_shapes_are_followed_by_the_export(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["m"]),
        helper.make_node("Concat", ["m", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    numbers = {"zero": np.int64(0), "axes": np.array([0]), "rest": np.array([2, -1])}
    module = read_onnx(saved(tmp_path / "m.onnx", nodes, ["n", 6], **numbers))
    dims = (({0: torch.export.Dim("n")},),)
    program = torch.export.export(module, (torch.zeros(3, 6),), dynamic_shapes=dims)
    assert program.module()(torch.zeros(7, 6)).shape == (7, 2, 3)
    assert not dict(module.named_buffers())


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    w = np.ones((2, 3, 1, 1), np.float32)
    return saved(tmp_path / "plain.onnx", nodes, ["n", 3, 4, 4], w=w)


def one(path: Path, kind: str, domain: str = "", opset: int = 17) -> Path:
    node = helper.make_node(kind, ["x"], ["y"], domain=domain)
    return saved(path, [node], [1, 3], opset)


@pytest.mark.parametrize(
    ("kind", "domain", "said"),
    [
        ("NonMaxSuppression", "", "not known here: NonMaxSuppression"),
        ("Fancy", "my.own", "not known here: my.own.Fancy"),
        ("QuantizeLinear", "", "already quantized"),
        ("MatMulNBits", "com.microsoft", "already quantized"),
        ("QLinearConv", "", "already quantized"),
        ("Loop", "", "control flow"),
    ],
)
def test_operators_that_are_not_followed(kind: str, domain: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as error:
        read_onnx(one(tmp_path / "m.onnx", kind, domain))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("opset", "said"), [(99, "opset 99; this version knows up"), (5, "opset 5")]
)
def test_versions_that_are_not_known(opset: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_onnx(one(tmp_path / "m.onnx", "Relu", opset=opset))


def test_files_that_are_damaged(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_onnx(tmp_path / "none.onnx")
    data = plain.read_bytes()
    for bad in (b"", b"junk" * 50, data[: len(data) // 2], data[:-3]):
        plain.write_bytes(bad)
        with pytest.raises(InputError, match=r"plain\.onnx"):
            read_onnx(plain)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(value: float, plain: Path) -> None:
    model = onnx.load(plain)
    w = numpy_helper.to_array(model.graph.initializer[0]).copy()
    w[1, 1] = value
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    onnx.save(model, plain)
    with pytest.raises(InputError, match="the tensor w "):
        read_onnx(plain)


def external(path: Path, location: str) -> None:
    """Say that the weights lie somewhere else."""
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    (path.parent / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())


def test_external_data(plain: Path) -> None:
    external(plain, "w.bin")
    assert torch.equal(read_onnx(plain)(torch.ones(1, 3, 2, 2)), torch.full((1, 2, 2, 2), 3.0))
    (plain.parent / "w.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="w cannot be read"):
        read_onnx(plain)
    (plain.parent / "w.bin").unlink()
    with pytest.raises(InputError, match=r"the data of w are missing"):
        read_onnx(plain)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", ""])
def test_external_data_outside_the_folder(location: str, plain: Path) -> None:
    external(plain, location)
    with pytest.raises(InputError, match="outside its folder"):
        read_onnx(plain)


def test_without_onnx(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnx.inliner"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"sprue\[onnx\]"):
        read_onnx(plain)


def test_nodes_that_make_no_sense(tmp_path: Path) -> None:
    bad = [helper.make_node("Conv", ["x"], ["y"])], [helper.make_node("Gather", ["x", "w"], ["y"])]
    for nodes in bad:
        path = saved(tmp_path / "m.onnx", nodes, [1, 3, 4, 4], w=np.array([99]))
        with pytest.raises(InputError, match=r"m\.onnx") as error:
            read_onnx(path)
        assert "\n" not in str(error.value)


def test_functions_of_the_standard_are_followed(tmp_path: Path) -> None:
    node = helper.make_node("Attention", ["x", "x", "x"], ["y"])
    module = read_onnx(saved(tmp_path / "m.onnx", [node], ["n", 2, 6, 8], opset=23))
    x = torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    assert apart(module(x), functional.scaled_dot_product_attention(x, x, x)) < 1e-4


def test_inputs_are_counted(plain: Path) -> None:
    with pytest.raises(InputError, match=r"expected 1 inputs \(x\), got 2"):
        read_onnx(plain)(torch.ones(1), torch.ones(1))


@pytest.fixture(scope="module")
def yolox() -> OnnxModule:
    if not _YOLOX.is_file():
        pytest.skip(f"needs {_YOLOX}")
    return read_onnx(_YOLOX)


def test_a_detector(yolox: OnnxModule) -> None:
    x = torch.rand(2, 3, 416, 416, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        found = yolox(x)
    assert not yolox.fixed_batch
    assert apart(found[:1], answers(_YOLOX, images=x[:1])) < 1e-4
    assert apart(found[1:], answers(_YOLOX, images=x[1:])) < 1e-4
    assert len([g for g in groups(yolox, (x,)) if g.read]) == 67
