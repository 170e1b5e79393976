"""A distribution without the wrappers of ``to_event``, ``expand`` and ``mask``."""

from __future__ import annotations

__all__ = ["Unwrapped", "unwrapped"]

from typing import NamedTuple

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent


class Unwrapped(NamedTuple):
    """A distribution without its wrappers."""

    base: Distribution
    """The distribution itself; its batch shape broadcasts to ``shape``."""
    shape: torch.Size
    """Shape of the elements: the wrapped batch shape, then the dimensions that ``to_event`` made event dimensions."""
    event_dims: int
    """Number of last dimensions of ``shape`` that ``to_event`` made event dimensions."""
    mask: Tensor | None
    """Mask of the elements that count, which broadcasts to ``shape``; None if all count."""


def unwrapped(distribution: Distribution) -> Unwrapped:
    """Take ``Independent``, ``ExpandedDistribution`` and ``MaskedDistribution`` off a distribution, in any order."""
    if isinstance(distribution, Independent):
        inner = unwrapped(distribution.base_dist)
        return inner._replace(event_dims=inner.event_dims + distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, ExpandedDistribution):
        inner = unwrapped(distribution.base_dist)
        event = inner.shape[len(inner.shape) - inner.event_dims :]
        return inner._replace(shape=distribution.batch_shape + event)
    if isinstance(distribution, MaskedDistribution):
        inner = unwrapped(distribution.base_dist)
        mask = torch.as_tensor(distribution._mask)
        mask = mask.reshape(mask.shape + (1,) * inner.event_dims)
        event = inner.shape[len(inner.shape) - inner.event_dims :]
        return inner._replace(
            shape=distribution.batch_shape + event, mask=mask if inner.mask is None else inner.mask & mask
        )
    return Unwrapped(distribution, distribution.batch_shape, 0, None)
