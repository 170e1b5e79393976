"""Small networks, models and data that the tests of weights share."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bmrs_pyro.weights import MeanField, WeightModel

FEATURES, CLASSES, NUM_DATA = 4, 3, 1200


def categorical(logits: Tensor) -> dist.TorchDistribution:
    return dist.Categorical(logits=logits)


def mlp(width: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, CLASSES)
    )


def program(net: nn.Module | None = None, **options: object) -> tuple[WeightModel, MeanField]:
    model = WeightModel(mlp() if net is None else net, categorical, NUM_DATA, **options)  # type: ignore[arg-type]
    return model, MeanField(model.draw)


def blobs(seed: int = 0, count: int = NUM_DATA) -> tuple[Tensor, Tensor]:
    """Three clusters in the first two of four features; the others are noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    centres = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    x = torch.randn(count, FEATURES, generator=generator)
    x[:, :2] += centres[y]
    return x, y


def batches(seed: int = 0, size: int = 100) -> list[tuple[Tensor, Tensor]]:
    x, y = blobs(seed)
    return list(zip(x.split(size), y.split(size), strict=True))
