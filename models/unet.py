"""A small U-Net that labels every pixel, with random gains on its channels, as a Pyro program.

Two steps down halve the image and double the channels, and two steps up reverse this. Each step up also reads the
output of the earlier stage of the same size, a skip connection. Every stage is two 3 × 3 convolutions with batch norm
and ReLU. θ_c multiplies channel c at the input of every consumer, also of those behind a skip connection:

    net = NoisyNetwork(network((1, 32, 32), 11), torch.zeros(1, 1, 32, 32))
    svi = SVI(model, guide, Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    svi.step(x, y, net=net, num_data=2_000)

Source: Ronneberger, Fischer and Brox (MICCAI 2015), with batch norm and padding.
"""

from __future__ import annotations

__all__ = ["guide", "model", "network"]

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bmrs_pyro.inference import posterior_gains, prior_gains
from bmrs_pyro.network import NoisyNetwork

WIDTH = 8


def stage(inputs: int, outputs: int) -> nn.Sequential:
    """Return two convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Two steps down and two up, with skip connections between stages of the same size."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.down1, self.down2 = stage(channels, WIDTH), stage(WIDTH, 2 * WIDTH)
        self.middle = stage(2 * WIDTH, 4 * WIDTH)
        self.up2, self.join2 = nn.ConvTranspose2d(4 * WIDTH, 2 * WIDTH, 2, 2), stage(4 * WIDTH, 2 * WIDTH)
        self.up1, self.join1 = nn.ConvTranspose2d(2 * WIDTH, WIDTH, 2, 2), stage(2 * WIDTH, WIDTH)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(B, c, H, W)`` to logits ``(B, num_classes, H, W)``."""
        one = self.down1(x)
        two = self.down2(self.pool(one))
        below = self.middle(self.pool(two))
        two = self.join2(torch.cat([two, self.up2(below)], 1))
        return self.head(self.join1(torch.cat([one, self.up1(two)], 1)))


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for images of shape ``(c, H, W)``, H and W multiples of 4."""
    return UNet(input_shape[0], num_classes)


def model(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> Tensor:
    """θ ~ LogUniform, y_p | x, θ ~ Categorical(softmax(net(x, θ)_p)) for every pixel p."""
    pyro.module("unet", net)
    logits = net(x, prior_gains(net, len(x)))
    with pyro.plate("data", num_data, subsample=torch.arange(len(x)), dim=-1):
        pixels = dist.Categorical(logits=logits.movedim(1, -1)).to_event(2)
        label: Tensor = pyro.sample("y", pixels, obs=y)
    return label


def guide(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> None:
    """q(θ) = Π TruncatedLogNormal(loc, scale), with its parameters in Pyro's parameter store."""
    posterior_gains(net, len(x))
