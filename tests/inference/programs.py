"""Small networks, models and data that the tests of inference share."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bmrs_pyro import AutoTruncatedLogNormal, NoisyNetwork, SupervisedModel

NUM_DATA, FEATURES, CLASSES = 480, 5, 3


def categorical(logits: Tensor) -> dist.TorchDistribution:
    return dist.Categorical(logits=logits)


def mlp(width: int = 12) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, CLASSES)
    )


def program(
    net: nn.Module | None = None, **options: object
) -> tuple[SupervisedModel, AutoTruncatedLogNormal]:
    network = NoisyNetwork(net if net is not None else mlp(), torch.zeros(2, FEATURES))
    model = SupervisedModel(network, categorical, NUM_DATA, **options)  # type: ignore[arg-type]
    return model, AutoTruncatedLogNormal(model)


def blobs(seed: int = 0, count: int = NUM_DATA) -> tuple[Tensor, Tensor]:
    """Three well separated clusters in the first two of five features."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 4.0]])
    x = torch.randn(count, FEATURES, generator=generator)
    x[:, :2] += centres[y]
    return x, y


def batches(seed: int = 0, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    x, y = blobs(seed)
    return list(zip(x.split(size), y.split(size), strict=True))
