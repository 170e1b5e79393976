"""Likelihoods: of labels that are not believed entirely, and of observations of the right shape alone."""

from __future__ import annotations

__all__ = ["SmoothedCategorical", "SmoothedLikelihood", "log_likelihoods", "refuse_shape"]

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.utils import lazy_property
from torch.nn.functional import cross_entropy

# cross_entropy scores a label of -100 as 0 unless told another one to ignore; no label is to be ignored here
_NO_LABEL = torch.iinfo(torch.int64).min


class SmoothedCategorical(dist.Categorical):
    """Label smoothing: log p(y) counts as (1 − ε) log p_y + ε/K Σ_k log p_k.

    That is the expected log-likelihood of a label that was drawn anew, from all K classes alike, with probability ε.
    A training step asks for nothing else, so the logits are normalised only where something else is asked for.

    Args:
        logits: ``(*batch, K)``.
        smoothing: ε in [0, 1).

    Reference: Szegedy et al., CVPR 2016, section 7.
    """

    def __init__(self, logits: Tensor, smoothing: float) -> None:
        self._param = logits
        self._num_events = logits.shape[-1]
        self.smoothing = smoothing
        # not Categorical's own, which normalises
        TorchDistribution.__init__(self, logits.shape[:-1])

    @lazy_property
    def logits(self) -> Tensor:
        """Log-probabilities ``(*batch, K)``."""
        return self._param.log_softmax(-1)

    def expand(
        self,
        batch_shape: torch.Size | list[int] | tuple[int, ...],
        _instance: SmoothedCategorical | None = None,
    ) -> SmoothedCategorical:
        """Return the distribution of more labels."""
        return SmoothedCategorical(self._param.expand(*batch_shape, self._num_events), self.smoothing)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the smoothed log-likelihood of labels."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        logits = self._param.expand(*shape, self._num_events).reshape(-1, self._num_events)
        labels = value.expand(shape).reshape(-1)
        losses = cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.smoothing, ignore_index=_NO_LABEL
        )
        return -losses.view(shape)


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


def refuse_shape(distribution: TorchDistribution, y: Tensor) -> None:
    """Raise ValueError if a batch's observations would be broadcast against the distribution's values."""
    expected = distribution.shape()
    # a distribution of the user's own may score values with more dimensions than it says it has
    if y.shape != expected and y.dim() <= len(expected):
        raise _other_shape(distribution, y)


def log_likelihoods(distribution: TorchDistribution, y: Tensor) -> Tensor:
    """Return log p(y_i) of every example, ``(batch,)``, nats.

    Raises:
        ValueError: ``y`` has another shape than the distribution's values, so that examples would be mixed.
    """
    refuse_shape(distribution, y)
    values: Tensor = distribution.log_prob(y)
    if values.shape != distribution.batch_shape:
        raise _other_shape(distribution, y)
    return values


def _other_shape(distribution: TorchDistribution, y: Tensor) -> ValueError:
    return ValueError(
        f"y has shape {tuple(y.shape)}, but the likelihood's values have shape {tuple(distribution.shape())}: "
        "reshape the labels, or squeeze the network's output, so that the two agree"
    )
