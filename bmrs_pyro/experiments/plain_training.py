"""Training without gains, for comparison."""

from __future__ import annotations

__all__ = ["train_plainly"]

from collections.abc import Callable

import torch
from torch import nn

from bmrs_pyro.data import Batches
from bmrs_pyro.training import linear_decay


def train_plainly(
    net: nn.Module, batches: Batches, epochs: int, schedule: Callable[[float], float] = linear_decay
) -> None:
    """Train a classifier without gains by Adam at 1e-3.

    Args:
        net: the network; trained in place.
        batches: images and labels.
        epochs: number of epochs.
        schedule: maps the share of epochs done to a factor on the learning rate.
    """
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    for epoch in range(epochs):
        batches.set_epoch(epoch + 1)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * schedule(epoch / epochs)
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
