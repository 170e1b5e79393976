"""The inputs of a batch, as the network takes them."""

from __future__ import annotations

__all__ = ["inputs_on"]

from collections.abc import Sequence

import torch
from torch import Tensor

from bmrs_pyro.inference.model import Inputs


def inputs_on(device: torch.device, x: Tensor | Sequence[Tensor]) -> Inputs:
    """Move a batch's inputs to a device; several of them, which torch's loader hands over as a list, become a tuple."""
    if isinstance(x, Tensor):
        return x.to(device, non_blocking=True)
    return tuple(part.to(device, non_blocking=True) for part in x)
