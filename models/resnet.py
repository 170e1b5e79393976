"""ResNet-18 for small images with random gains on its channels.

A basic block computes relu(x + bn(conv(relu(bn(conv(x)))))); if width or size change, a 1 × 1 convolution matches x.
For images of 32 × 32 the stem is one 3 × 3 convolution, with no pooling. Two kinds of structures have gains: the
channels between the convolutions of a block, and the channels of a residual stream, which all blocks of a stage share.
θ multiplies the *input* of each consumer, so that batch norm, relu and the sum do not change.

    net = NoisyNetwork(network((3, 32, 32), 10), torch.zeros(2, 3, 32, 32))

Sources: He et al. (CVPR 2016), section 4.2 for the stem and table 1 for ResNet-18's widths and depths.
"""

from __future__ import annotations

__all__ = ["BasicBlock", "input_size", "network"]

import torch
from torch import Tensor, nn

input_size = 32

WIDTH, DEPTH, STAGES = 64, 2, 4


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions with batch norm, beside a shortcut."""

    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(fan_in, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv(width, width, 3, 1), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if fan_in != width or stride > 1:
            self.shortcut = nn.Sequential(conv(fan_in, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, fan_in, H, W)`` to ``(B, width, H/stride, W/stride)``."""
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.shortcut(x) + self.norm2(self.conv2(inner)))


def conv(fan_in: int, width: int, size: int, stride: int) -> nn.Conv2d:
    """Return a convolution without bias, because the batch norm after it has one."""
    return nn.Conv2d(fan_in, width, size, stride, size // 2, bias=False)


def network(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: int = WIDTH,
    depth: int = DEPTH,
    stages: int = STAGES,
) -> nn.Module:
    """Return the deterministic network for images of shape ``(c, H, W)``; ``width`` doubles with every stage."""
    widths = [width * 2**stage for stage in range(stages)]
    stem = [conv(input_shape[0], width, 3, 1), nn.BatchNorm2d(width), nn.ReLU()]
    blocks = [
        BasicBlock(widths[max(stage - (index == 0), 0)], channels, 2 if stage and not index else 1)
        for stage, channels in enumerate(widths)
        for index in range(depth)
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes)]
    return nn.Sequential(*stem, *blocks, *head)
