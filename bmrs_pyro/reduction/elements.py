"""Posterior, prior and reduced prior as products over independent elements."""

from __future__ import annotations

__all__ = ["Elements"]

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import Unwrapped, unwrapped


class Elements(NamedTuple):
    """Posterior, prior and reduced prior of single elements.

    Attributes:
        posterior: q of the elements.
        prior: p of the elements.
        reduced: p̃ of the elements.
        shape: the elements' shape: the posterior's batch shape, then the dimensions that ``to_event`` took.
        event_dims: how many of the last dimensions of ``shape`` are event dimensions.
        counted: True where none of the three distributions masks the element, of shape ``shape``.
    """

    posterior: Distribution
    prior: Distribution
    reduced: Distribution
    shape: torch.Size
    event_dims: int
    counted: Tensor

    @classmethod
    def of(cls, posterior: Distribution, prior: Distribution, reduced: Distribution) -> Elements:
        """Undo ``to_event``, ``expand`` and ``mask`` in all three; a prior without events applies to every element.

        Raises:
            ValueError: their numbers of event dimensions differ.
        """
        whole = posterior, prior, reduced
        parts = [unwrapped(one) for one in whole]
        dims, joint = parts[0].event_dims, any(part.base.event_shape for part in parts)
        if any(part.event_dims not in ((dims,) if joint else (0, dims)) for part in parts):
            shapes = [tuple(one.event_shape) for one in whole]
            if len(set(shapes)) > 1:
                raise ValueError(
                    f"posterior, prior and reduced prior have event shapes {', '.join(map(str, shapes))}: "
                    "use one to_event(n) for all three"
                )
            # one of them has its own event dimension, as a multivariate normal does
            parts = [Unwrapped(one, one.batch_shape, 0, None) for one in whole]
        counted = torch.ones(parts[0].shape, dtype=torch.bool)
        for part in parts:
            if part.mask is not None:
                counted = counted & part.mask.cpu()
        q, p, wanted = (part.base for part in parts)
        return cls(q, p, wanted, parts[0].shape, parts[0].event_dims, counted)

    def total(self, values: Tensor) -> Tensor:
        """Add the elements' values up over the event dimensions."""
        values = values.expand(self.shape)
        values = values.where(self.counted.to(values.device), 0.0)
        return values.sum(tuple(range(-self.event_dims, 0))) if self.event_dims else values
