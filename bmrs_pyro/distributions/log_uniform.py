"""The log-uniform prior."""

from __future__ import annotations

__all__ = ["LogUniform"]

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from bmrs_pyro.distributions.interval import PRIOR_HIGH, PRIOR_LOW, IntervalDistribution, Shape, as_floating


class LogUniform(IntervalDistribution):
    """A gain whose logarithm is uniform: every order of magnitude is as likely as any other.

        p(θ) = 1 / (θ log(high/low)),    low ≤ θ ≤ high

    Written out rather than as exp of `Uniform`: the bounds stay in float64 and the support is the interval.

    Args:
        low: Lower bound in θ, positive.
        high: Upper bound in θ, above `low`.
        validate_args: Whether arguments and values are checked; Pyro's setting if None.

    Reference:
        Neklyudov et al., "Structured Bayesian Pruning via Log-Normal Multiplicative Noise", 2017, section 3.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "low": constraints.positive,
        "high": constraints.positive,
    }

    def __init__(
        self,
        low: Tensor | float = PRIOR_LOW,
        high: Tensor | float = PRIOR_HIGH,
        *,
        validate_args: bool | None = None,
    ) -> None:
        dtype = as_floating(low, high)[0].dtype
        super().__init__(low, high, shape=torch.Size(), dtype=dtype, device=None, validate_args=validate_args)

    @property
    def log_width(self) -> Tensor:
        """The interval's length in log θ, log(high/low), in float64."""
        return self.log_high - self.log_low

    def log_prob(self, value: Tensor) -> Tensor:
        """−log θ − log log(high/low); −inf outside the interval."""
        if self._validate_args:
            self._validate_sample(value)
        log_prob = -value.double().log() - self.log_width.log()
        return self._rounded(log_prob.where(self.support.check(value), -torch.inf), value)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`."""
        shape = self._extended_shape(sample_shape)
        return self.icdf(torch.rand(shape, dtype=torch.float64, device=self.low.device)).to(self.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """P(θ' ≤ value)."""
        # not clamp, which refuses a prior on the CPU for values on another device
        inside = value.double().maximum(self.low).minimum(self.high)
        return self._rounded((inside.log() - self.log_low) / self.log_width, value)

    def icdf(self, value: Tensor) -> Tensor:
        """θ below which the mass `value` lies."""
        theta = (self.log_low + value.double() * self.log_width).exp()
        return self._rounded(theta.maximum(self.low).minimum(self.high), value)

    @property
    def mean(self) -> Tensor:
        """(high − low) / log(high/low)."""
        return self._per_batch(self._mean)

    @property
    def variance(self) -> Tensor:
        """E[θ] · ((low + high)/2 − E[θ])."""
        return self._per_batch(self._mean * ((self.low + self.high) / 2 - self._mean))

    @property
    def mode(self) -> Tensor:
        """The lower bound, where the density is highest."""
        return self._per_batch(self.low)

    def entropy(self) -> Tensor:
        """−E[log p(θ)] = log log(high/low) + (log low + log high)/2, in nats."""
        return self._per_batch(self.log_width.log() + (self.log_low + self.log_high) / 2)

    @property
    def _mean(self) -> Tensor:
        # expm1, because high − low loses all digits on a narrow interval
        return -self.high * torch.expm1(-self.log_width) / self.log_width
