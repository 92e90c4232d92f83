"""The ResNets of He et al. (2016), section 4.2, for images of 32 x 32, with shortcuts that are
padded with zeros. The names are those of the weights in the assets.

sprue audit cifar_resnet:resnet20 --weights resnet20.safetensors --input 3x32x32 ...
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64)
CLASSES = 10


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pad = (outputs - inputs) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.pad:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return functional.relu(y + x)


class ResNet(nn.Module):
    """Three stages of `blocks` blocks each: 6 blocks + 2 layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        inputs = WIDTHS[0]
        for stage, outputs in enumerate(WIDTHS, 1):
            made = [
                Block(inputs if i == 0 else outputs, outputs, 2 if stage > 1 and i == 0 else 1)
                for i in range(blocks)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*made))
            inputs = outputs
        self.linear = nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.mean(x, (2, 3)))
        return logits


def resnet20() -> ResNet:
    """3 blocks a stage."""
    return ResNet(3)


def resnet44() -> ResNet:
    """7 blocks a stage."""
    return ResNet(7)
