"""The independent elements that posterior, prior and reduced prior are products of."""

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
        shape: the elements' shape: the posterior's batch shape, and what ``to_event`` made event.
        event_dims: how many of its last dimensions are event.
        counted: which elements none of the three masks, of that shape.
    """

    posterior: Distribution
    prior: Distribution
    reduced: Distribution
    shape: torch.Size
    event_dims: int
    counted: Tensor

    @classmethod
    def of(cls, posterior: Distribution, prior: Distribution, reduced: Distribution) -> Elements:
        """Take ``to_event``, ``expand`` and ``mask`` off all three; a prior without events is that of every element.

        Raises:
            ValueError: they join different numbers of dimensions.
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
            # one of them has the event by itself, as a multivariate normal has
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
