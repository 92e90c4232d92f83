"""SiLU replaced by HardSwish, and what this breaks repaired."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sprue.structure.hardened import hardened, silus

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES[:32],), (IMAGES[32:],)]


class SiLUActivation(nn.Module):
    """As `transformers` has it."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x)


class Net(nn.Module):
    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3)
        self.first, self.acts = act(), nn.ModuleList([act()])
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.acts[0](self.b(self.first(self.a(x)))).mean((2, 3)))


@pytest.fixture(params=[nn.SiLU, SiLUActivation])
def net(request: pytest.FixtureRequest) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = Net(request.param).eval()
        for layer in (made.a, made.b):
            nn.init.normal_(layer.weight, std=0.4)
    return made


def error(a: nn.Module, b: nn.Module) -> float:
    with torch.no_grad():
        return float((a(IMAGES) - b(IMAGES)).square().mean())


def test_every_one_is_replaced_and_repaired(net: Net) -> None:
    before = copy.deepcopy(net.state_dict())
    assert silus(net) == 2
    made = hardened(net, BATCHES)
    assert silus(made) == 0
    assert silus(net) == 2
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    broken = copy.deepcopy(made)
    broken.load_state_dict(before)
    assert error(net, made) < 0.5 * error(net, broken)


def test_a_network_without_any() -> None:
    assert silus(nn.Sequential(nn.Linear(3, 3), nn.GELU())) == 0


@pytest.mark.parametrize("swapped", [False, True])
def test_in_onnx_files_it_is_a_product_with_its_own_sigmoid(tmp_path: Path, swapped: bool) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    from onnx import helper

    from sprue.formats.onnx_import import read_onnx

    generator = torch.Generator().manual_seed(3)
    weights = {
        "W": torch.randn(8, 3, 3, 3, generator=generator),
        "V": torch.randn(4, 8, 1, 1, generator=generator),
    }
    pair = ["s", "h"] if swapped else ["h", "s"]
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["h"], name="first"),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Mul", pair, ["y"]),
        helper.make_node("Conv", ["y", "V"], ["z"], name="second"),
        helper.make_node("Sigmoid", ["z"], ["g"]),  # of another: stays
        helper.make_node("Mul", ["z", "g"], ["out"]),
        helper.make_node("Sigmoid", ["out"], ["gate"]),
        helper.make_node("Mul", ["z", "gate"], ["last"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("last", kind, None)],
        [onnx.numpy_helper.from_array(w.numpy(), name) for name, w in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), tmp_path / "m.onnx"
    )
    net = read_onnx(tmp_path / "m.onnx").eval()
    assert silus(net) == 2
    made = hardened(net, BATCHES)
    assert silus(made) == 0
    broken = copy.deepcopy(made)
    broken.load_state_dict(net.state_dict())
    with torch.no_grad():
        h = nn.functional.conv2d(IMAGES, weights["W"])
        z = nn.functional.conv2d(nn.functional.hardswish(h), weights["V"])
        expected = z * torch.sigmoid(nn.functional.hardswish(z))
        assert torch.allclose(broken(IMAGES), expected, atol=1e-5)
    assert error(net, made) < error(net, broken)
