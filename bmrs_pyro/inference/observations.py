"""Observations have the shape of the distribution's values, so that no example is scored against another's label."""

from __future__ import annotations

__all__ = ["NonFiniteLoss", "log_likelihoods", "observed", "other_shape"]

import torch.distributions as td
from torch import Tensor


class NonFiniteLoss(ArithmeticError):
    """The loss is NaN or infinite; the message names the first site or input that is."""


def observed(distribution: td.Distribution, y: Tensor) -> Tensor:
    """Return labels or values as a distribution scores them; dimensions of 1 may be missing or too many.

    Whole numbers become floating-point ones where the distribution is a Bernoulli, which scores no others.

    Raises:
        ValueError: their shape is another one.
    """
    if not y.is_floating_point():
        base = distribution
        while hasattr(base, "base_dist"):
            base = base.base_dist
        if isinstance(base, td.Bernoulli):
            y = y.to(base.mean.dtype)
    expected = distribution.batch_shape + distribution.event_shape
    # a distribution of the user's own may score values with more dimensions than it says it has
    if y.shape == expected:
        return y
    if [size for size in y.shape if size != 1] == [size for size in expected if size != 1]:
        return y.reshape(expected)
    if y.dim() > len(expected):
        return y
    raise other_shape(distribution, y)


def log_likelihoods(distribution: td.Distribution, y: Tensor) -> Tensor:
    """Return log p(y_i) of every example, ``(batch,)``, nats.

    Raises:
        ValueError: ``y`` has another shape than the distribution's values, so that examples would be mixed.
    """
    values: Tensor = distribution.log_prob(observed(distribution, y))
    if values.shape != distribution.batch_shape:
        raise other_shape(distribution, y)
    return values


def other_shape(distribution: td.Distribution, y: Tensor) -> ValueError:
    """Return the error that says which shape labels or values have, and which a distribution scores."""
    expected = distribution.batch_shape + distribution.event_shape
    return ValueError(
        f"y has shape {tuple(y.shape)}, but the likelihood's values have shape {tuple(expected)}: "
        "reshape the labels, or the network's output, so that the two agree"
    )
