"""The inputs of a batch, as the network takes them."""

from __future__ import annotations

__all__ = ["inputs_on", "on_device_of"]

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.inference.model import Inputs


def inputs_on(device: torch.device, x: Tensor | Sequence[Tensor]) -> Inputs:
    """Move a batch's inputs to a device; several of them, which torch's loader hands over as a list, become a tuple."""
    if isinstance(x, Tensor):
        return x.to(device, non_blocking=True)
    return tuple(part.to(device, non_blocking=True) for part in x)


def on_device_of(net: object, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Move the inputs of batches to where a network's weights are; those of a function stay as they are."""
    weights = chain(net.parameters(), net.buffers()) if isinstance(net, nn.Module) else iter(())
    like = next(weights, None)
    for x, y in batches:
        yield (x if like is None else inputs_on(like.device, x)), y
