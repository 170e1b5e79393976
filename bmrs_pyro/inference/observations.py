"""Observations have the shape of the distribution's values, so that no example is scored against another's label."""

from __future__ import annotations

__all__ = ["log_likelihoods", "refuse_shape"]

from pyro.distributions import TorchDistribution
from torch import Tensor


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
