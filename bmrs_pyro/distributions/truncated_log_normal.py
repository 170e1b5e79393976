"""The truncated log-normal posterior."""

from __future__ import annotations

__all__ = ["TruncatedLogNormal"]

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from bmrs_pyro.distributions.central import uniforms
from bmrs_pyro.distributions.drawing import draw
from bmrs_pyro.distributions.interval import PRIOR_HIGH, PRIOR_LOW, IntervalDistribution, Shape, as_floating
from bmrs_pyro.distributions.quantile import truncated_log_normal_quantile
from bmrs_pyro.distributions.truncated_normal import TruncatedNormal


class TruncatedLogNormal(IntervalDistribution):
    """A gain whose logarithm is a truncated normal.

        log θ ~ N(loc, scale²) truncated to [log low, log high]

    Written out rather than as exp of a truncated normal: the draw is one autograd function, and moments, mode
    and entropy are those of θ. Results are computed in float64 and rounded to the parameters' dtype: float32 is safe
    for scale from e^−7 to e^5 and loc far outside the bounds. Gradients reach loc and scale; the bounds are
    constants.

    Args:
        loc: Mean of log θ before truncation.
        scale: Standard deviation of log θ before truncation, positive.
        low: Lower bound in θ, positive.
        high: Upper bound in θ, above `low`; moments are exact to 1e-10 for log(high/low) up to 50.
        validate_args: Whether arguments and values are checked; Pyro's setting if None.

    Reference:
        Neklyudov et al., "Structured Bayesian Pruning via Log-Normal Multiplicative Noise", 2017, section 3.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.positive,
        "high": constraints.positive,
    }

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float = PRIOR_LOW,
        high: Tensor | float = PRIOR_HIGH,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self._loc, self._scale = as_floating(loc, scale)
        like = self._loc
        super().__init__(
            low, high, shape=like.shape, dtype=like.dtype, device=like.device, validate_args=validate_args
        )

    @property
    def loc(self) -> Tensor:
        """Mean of log θ before truncation."""
        return self._loc.expand(self.batch_shape)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of log θ before truncation."""
        return self._scale.expand(self.batch_shape)

    @property
    def log_distribution(self) -> TruncatedNormal:
        """The distribution of log θ in float64, in the unexpanded shape of the parameters."""
        return TruncatedNormal(self._loc.double(), self._scale.double(), self.log_low, self.log_high)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of log θ minus log θ, for the change of variable; −inf outside the interval."""
        value = self._near(value)
        if self._validate_args:
            self._validate_sample(value)
        u = value.double().log()
        log_prob = self.log_distribution.log_density(u) - u
        return self._rounded(log_prob.where(self.support.check(value), -torch.inf), value)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Reparameterised draws of shape `sample_shape + batch_shape`."""
        shape = self._extended_shape(sample_shape)
        p = uniforms(shape, self.dtype, self._loc.device)
        return draw(p, self._loc, self._scale, self.low, self.high).to(self.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """P(θ' ≤ value)."""
        value, normal = self._near(value), self.log_distribution
        part = normal.cut(normal.low, value.double().clamp(self.low, self.high).log())
        mass = normal.log_density(part.mode).exp() * part.integral
        return self._rounded(mass.clamp(max=1), value)

    def icdf(self, value: Tensor) -> Tensor:
        """θ below which the mass `value` lies."""
        p = self._near(value).double().expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        return truncated_log_normal_quantile(p, self.log_distribution, self.low, self.high).to(self.dtype)

    @property
    def mean(self) -> Tensor:
        """E[θ]."""
        normal, growth, _ = self._moments
        return self._per_batch(normal.mode.exp() * (1 + growth))

    @property
    def variance(self) -> Tensor:
        """E[(θ − E[θ])²]."""
        normal, _, spread = self._moments
        return self._per_batch((2 * normal.mode).exp() * spread)

    @property
    def signal_to_noise(self) -> Tensor:
        """E[θ] / std[θ], the score of Structured Bayesian Pruning."""
        _, growth, spread = self._moments
        return self._per_batch((1 + growth) / spread.sqrt())

    @property
    def mode(self) -> Tensor:
        """exp(loc − scale²), clamped to the interval: where the density of θ is highest."""
        normal = self.log_distribution
        return self._per_batch((normal.loc - normal.scale**2).exp().clamp(self.low, self.high))

    @property
    def log_z(self) -> Tensor:
        """The log-mass inside the interval, log(Φ((log high − loc)/scale) − Φ((log low − loc)/scale))."""
        return self._per_batch(self.log_distribution.log_z)

    def entropy(self) -> Tensor:
        """−E[log q(θ)], in nats."""
        normal = self.log_distribution
        offset, mass = normal.grid()
        surprise = (mass * (normal.scale * offset - normal.exponent(offset))).sum(0) / normal.integral
        return self._per_batch(normal.integral.log() + normal.mode + surprise)

    @property
    def _moments(self) -> tuple[TruncatedNormal, Tensor, Tensor]:
        """The distribution of log θ with E[g] and Var[g] of the growth g = θ/exp(mode) − 1, which loses no digits."""
        normal = self.log_distribution
        offset, mass = normal.grid(count=48, tilt=2.0)
        weight = mass / mass.sum(0)
        growth = torch.expm1(normal.scale * offset)
        mean = (weight * growth).sum(0)
        return normal, mean, (weight * (growth - mean) ** 2).sum(0)
