"""Checks of the shape of observations, so that no example is scored against another example's label."""

from __future__ import annotations

__all__ = ["NonFiniteLoss", "log_likelihoods", "observed", "other_shape", "unfit_parameters"]

import torch.distributions as td
from torch import Tensor


class NonFiniteLoss(ArithmeticError):
    """The loss is NaN or infinite; the message names the first site or input that is."""


def observed(distribution: td.Distribution, y: Tensor) -> Tensor:
    """Return labels or values in the shape that a distribution scores; dimensions of size 1 may be missing or extra.

    Integers become floating-point numbers if the distribution is a Bernoulli, which scores only those.

    Raises:
        ValueError: the shapes differ in more than dimensions of size 1.
        TypeError: ``y`` is not a tensor.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"y is a {type(y).__name__}; give labels or values as a tensor")
    if not y.is_floating_point():
        base = distribution
        while hasattr(base, "base_dist"):
            base = base.base_dist
        if isinstance(base, td.Bernoulli):
            y = y.to(base.mean.dtype)
    expected = distribution.batch_shape + distribution.event_shape
    # a user's own distribution may score values with more dimensions than its shapes say
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


def unfit_parameters(error: ValueError) -> bool:
    """Whether an error says that a distribution refuses its parameters, as it does if outputs are NaN or infinite."""
    return str(error).startswith("Expected parameter")


def other_shape(distribution: td.Distribution, y: Tensor) -> ValueError:
    """Return the error that names the shape of labels or values and the shape that a distribution scores."""
    expected = distribution.batch_shape + distribution.event_shape
    return ValueError(
        f"y has shape {tuple(y.shape)}, but the likelihood's values have shape {tuple(expected)}: "
        "reshape the labels, or the network's output, so that the two agree"
    )
