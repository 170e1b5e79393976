"""A likelihood for labels that are not believed entirely."""

from __future__ import annotations

__all__ = ["SmoothedCategorical", "SmoothedLikelihood"]

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor


class SmoothedCategorical(dist.Categorical):
    """Label smoothing: log p(y) counts as (1 − ε) log p_y + ε/K Σ_k log p_k.

    That is the expected log-likelihood of a label that was drawn anew, from all K classes alike, with probability ε.

    Args:
        logits: ``(*batch, K)``.
        smoothing: ε in [0, 1).

    Reference: Szegedy et al., CVPR 2016, section 7.
    """

    def __init__(self, logits: Tensor, smoothing: float) -> None:
        super().__init__(logits=logits)
        self.smoothing = smoothing

    def expand(
        self,
        batch_shape: torch.Size | list[int] | tuple[int, ...],
        _instance: SmoothedCategorical | None = None,
    ) -> SmoothedCategorical:
        """Return the distribution of more labels."""
        logits = self.logits.expand(*batch_shape, self.logits.shape[-1])
        return SmoothedCategorical(logits, self.smoothing)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the smoothed log-likelihood of labels."""
        return (1 - self.smoothing) * super().log_prob(value) + self.smoothing * self.logits.mean(-1)


@dataclass(frozen=True)
class SmoothedLikelihood:
    """The likelihood of a classifier's labels with label smoothing, to be called with its logits.

    Args:
        smoothing: ε in [0, 1); 0 is the categorical likelihood itself.

    Raises:
        ValueError: ε is outside [0, 1).
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"label smoothing is {self.smoothing}; it must lie in [0, 1)")

    def __call__(self, logits: Tensor) -> SmoothedCategorical:
        """Return the distribution of labels ``(batch,)`` for logits ``(batch, K)``."""
        return SmoothedCategorical(logits, self.smoothing)
