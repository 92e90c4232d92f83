"""A detector with the layers and widths of YOLOv5s (Ultralytics, version 6), for timing alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES, ANCHORS, STRIDES = 80, 3, (8, 16, 32)


class Conv(nn.Module):
    """Convolution, norm, SiLU."""

    def __init__(self, i: int, o: int, k: int = 1, s: int = 1, p: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, s, k // 2 if p is None else p, bias=False)
        self.bn = nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1 x 1, then 3 x 3, and perhaps the input again."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.one, self.two, self.shortcut = Conv(width, width), Conv(width, width, 3), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.one(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Two branches, one of them with bottlenecks."""

    def __init__(self, i: int, o: int, n: int, shortcut: bool = True) -> None:
        super().__init__()
        half = o // 2
        self.a, self.b, self.out = Conv(i, half), Conv(i, half), Conv(2 * half, o)
        self.blocks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat((self.blocks(self.a(x)), self.b(x)), 1))


class SPPF(nn.Module):
    """Pooled three times, all beside one another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = Conv(width, width // 2), Conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.a(x)]
        for _ in range(3):
            found.append(functional.max_pool2d(found[-1], 5, 1, 2))
        return self.b(torch.cat(found, 1))


class Yolov5s(nn.Module):
    """[n, 3, height, width] to [n, anchors, 85], boxes in pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv(3, 32, 6, 2, 2), Conv(32, 64, 3, 2), C3(64, 64, 1))
        self.p3 = nn.Sequential(Conv(64, 128, 3, 2), C3(128, 128, 2))
        self.p4 = nn.Sequential(Conv(128, 256, 3, 2), C3(256, 256, 3))
        self.p5 = nn.Sequential(Conv(256, 512, 3, 2), C3(512, 512, 1), SPPF(512))
        self.u5, self.n4 = Conv(512, 256), C3(512, 256, 1, False)
        self.u4, self.n3 = Conv(256, 128), C3(256, 128, 1, False)
        self.d3, self.n4b = Conv(128, 128, 3, 2), C3(256, 256, 1, False)
        self.d4, self.n5 = Conv(256, 256, 3, 2), C3(512, 512, 1, False)
        widths = (128, 256, 512)
        self.heads = nn.ModuleList(nn.Conv2d(w, ANCHORS * (5 + CLASSES), 1) for w in widths)

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        u5 = self.u5(self.p5(p4))
        n4 = self.n4(torch.cat((functional.interpolate(u5, scale_factor=2.0), p4), 1))
        u4 = self.u4(n4)
        n3 = self.n3(torch.cat((functional.interpolate(u4, scale_factor=2.0), p3), 1))
        n4 = self.n4b(torch.cat((self.d3(n3), u4), 1))
        n5 = self.n5(torch.cat((self.d4(n4), u5), 1))
        levels = zip(self.heads, (n3, n4, n5), STRIDES, strict=True)
        return torch.cat([decoded(head(y), stride) for head, y, stride in levels], 1)


def decoded(y: Tensor, stride: int) -> Tensor:
    """Of one level, [n, anchors, 85]."""
    n, _, h, w = y.shape
    y = y.view(n, ANCHORS, 5 + CLASSES, h, w).permute(0, 1, 3, 4, 2).sigmoid()
    rows, columns = torch.arange(h), torch.arange(w)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).to(y.dtype)
    center = (y[..., :2] * 2 - 0.5 + grid) * stride
    side = (y[..., 2:4] * 2).square() * (4 * stride)
    return torch.cat((center, side, y[..., 4:]), -1).reshape(n, -1, 5 + CLASSES)
