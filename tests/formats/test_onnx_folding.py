"""Convolutions of joined slices, beside what they become."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from sprue.formats.onnx_export import to_onnx


class Focus(nn.Module):
    """Every `step`-th pixel into channels of its own, then a convolution."""

    def __init__(self, step: int, stride: int, padding: int, kernel: int = 3) -> None:
        super().__init__()
        self.step = step
        joined = 2 * step * step
        self.conv = nn.Conv2d(joined, 5, kernel, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        n = self.step
        parts = [x[..., i::n, j::n] for j in range(n) for i in range(n)]
        y: Tensor = self.conv(torch.cat(parts, 1)).relu()
        return y


class Twice(Focus):
    """What is joined is read by others too."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., i::2, j::2] for j in range(2) for i in range(2)]
        joined = torch.cat(parts, 1)
        y: Tensor = self.conv(joined).relu().sum() + joined
        return y


class Cropped(Focus):
    """Slices that end early."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., i:8:2, j:8:2] for j in range(2) for i in range(2)]
        y: Tensor = self.conv(torch.cat(parts, 1))
        return y


class Half(nn.Module):
    """Half of the rows alone: the height may be odd."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.cat([x[..., ::2, :], x[..., ::2, :]], 1))
        return y


def exported(module: nn.Module, path: Path) -> list[str]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(2, 2, 12, 18)
    to_onnx(module.eval(), (x,), ("x",), ((0,),), path, (x,), folded=True)  # which compares
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    ("step", "stride", "padding", "kernel"),
    [(2, 1, 1, 3), (2, 2, 0, 3), (3, 1, 2, 2), (2, 1, 0, 1)],
)
def test_one_convolution_is_left(
    step: int, stride: int, padding: int, kernel: int, tmp_path: Path
) -> None:
    assert exported(Focus(step, stride, padding, kernel), tmp_path / "m.onnx") == ["Conv", "Relu"]
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert len(graph.initializer) == 2
    (weight,) = [t for t in graph.initializer if len(t.dims) == 4]
    assert list(weight.dims) == [5, 2, step * kernel, step * kernel]


@pytest.mark.parametrize("module", [Twice(2, 1, 1), Cropped(2, 1, 1), Half()])
def test_what_is_not_the_same_stays(module: nn.Module, tmp_path: Path) -> None:
    assert "Slice" in exported(module, tmp_path / "m.onnx")
