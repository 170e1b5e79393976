"""Frozen weights while the gains are fitted."""

from __future__ import annotations

__all__ = ["frozen"]

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Compute no gradients of a network's weights within the context.

    A step then saves a third of its work. Batch-norm statistics are still updated, because the gains change them.

    Args:
        net: the network; weights that were frozen before stay frozen afterwards.
    """
    trained = [weight for weight in net.parameters() if weight.requires_grad]
    try:
        for weight in trained:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
