"""ΔF by Monte Carlo, for distributions without a closed form."""

from __future__ import annotations

__all__ = ["Estimate", "monte_carlo_delta_f"]

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.reduction.elements import Elements


class Estimate(NamedTuple):
    """A Monte Carlo estimate."""

    value: Tensor
    """The estimate in nats, float64, of the posterior's batch shape."""
    standard_error: Tensor
    """Its standard error in nats, to first order; inf where no draw fell inside the reduced prior."""


_FEWEST = 10


@torch.no_grad()
def monte_carlo_delta_f(
    posterior: Distribution, prior: Distribution, reduced: Distribution, num_samples: int = 10_000
) -> Estimate:
    """Estimate ΔF = log E_q[p̃(θ)/p(θ)] from draws of the posterior.

    With ratios r_i, the value is log mean(r) and its standard error √((mean(r²)/mean(r)² − 1)/n), both in log
    space. Under ``to_event`` the estimates of the independent elements add up. A reduced prior far from the
    posterior's mass needs a closed form, because the draws miss it.

    Args:
        posterior: q(θ), batch shape `(C,)`.
        prior: p(θ), positive wherever q is.
        reduced: p̃(θ); draws outside its support count as 0.
        num_samples: Number n of draws for each of the C structures.

    Returns:
        The estimate with its standard error, each of shape `posterior.batch_shape`.

    Raises:
        ValueError: The event shapes differ; or the effective sample size (Σr)²/Σr² of a structure is below 10 but
            not 0, so that neither the estimate nor its standard error can be trusted.
    """
    q, p, wanted, *_ = elements = Elements.of(posterior, prior, reduced)
    theta = q.expand(elements.shape).sample(torch.Size((num_samples,)))
    log_ratio = _log_prob_or_zero(wanted, theta) - p.log_prob(theta).double()
    log_n = math.log(num_samples)
    first, second = log_ratio.logsumexp(0) - log_n, (2 * log_ratio).logsumexp(0) - log_n
    hit = first.isfinite()
    size = (2 * first - second + log_n).exp().where(hit & elements.counted, torch.inf)
    if (size < min(_FEWEST, num_samples)).any():
        raise ValueError(
            f"the Monte Carlo estimate of delta_f rests on {size.min():.2g} of {num_samples} draws of the posterior: "
            "the reduced prior lies where the posterior has hardly any mass. Add a closed form with register_delta_f"
        )
    square = ((second - 2 * first).expm1().clamp(min=0) / num_samples).where(hit, torch.inf)
    return Estimate(elements.total(first), elements.total(square).sqrt())


def _log_prob_or_zero(distribution: Distribution, theta: Tensor) -> Tensor:
    """Log distribution(θ), −inf outside the support, where log_prob itself may raise or return NaN."""
    support = distribution.support
    if support is None:
        raise ValueError(f"{type(distribution).__name__} has no support, so ΔF under it cannot be estimated")
    inside = support.check(theta)
    event = (1,) * len(distribution.event_shape)
    stand_in = theta.where(inside.reshape(inside.shape + event), distribution.sample())
    return distribution.log_prob(stand_in).double().where(inside, -torch.inf)
