"""Bayesian model reduction: the log-evidence gained by exchanging the prior."""

from __future__ import annotations

__all__ = ["delta_f", "register_delta_f"]

import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import IntervalDistribution, LogUniform, TruncatedLogNormal, TruncatedNormal
from bmrs_pyro.reduction.elements import Elements
from bmrs_pyro.reduction.monte_carlo import monte_carlo_delta_f

Types = tuple[type[Distribution], type[Distribution], type[Distribution]]
Form = TypeVar("Form", bound=Callable[..., Tensor])

_FORMS: dict[Types, Callable[..., Tensor]] = {}


def delta_f(posterior: Distribution, prior: Distribution, reduced: Distribution) -> Tensor:
    """Change of log-evidence when the prior p is replaced by a reduced prior p̃, without fitting again.

        ΔF = log p̃(data) − log p(data) = log E_q[p̃(θ) / p(θ)]

    Positive where the data prefer the reduced model. If p̃ is a point mass, a ``Delta`` at θ₀, this is the
    Savage–Dickey ratio q(θ₀)/p(θ₀). The closed form registered for the three types is used,
    else a Monte Carlo estimate, with a warning that states its standard error. Under ``to_event`` the ΔF of the
    independent elements add up; a masked element counts as 0.

    Args:
        posterior: q(θ), fitted under `prior`; batch shape `(C,)`.
        prior: p(θ), the prior it was fitted under.
        reduced: p̃(θ), the prior to compare with.

    Returns:
        ΔF in nats, float64, of shape `posterior.batch_shape`; −inf where p̃ excludes all of the posterior.

    Raises:
        ValueError: The posterior or the reduced prior reaches outside the prior's interval, a point mass lies outside
            the prior's support, the event shapes differ, or the Monte Carlo estimate rests on fewer than ten draws.
        TypeError: An argument is not a distribution.

    Reference:
        Wright, Igel and Selvan, "BMRS: Bayesian Model Reduction for Structured Pruning", 2024, section 3; Dickey,
        "The Weighted Likelihood Ratio, Linear Hypotheses on Normal Location Parameters", 1971.
    """
    form = _most_specific((type(posterior), type(prior), type(reduced)))
    if form is not None:
        return form(posterior, prior, reduced).expand(posterior.batch_shape)
    for role, given in (("posterior", posterior), ("prior", prior), ("reduced", reduced)):
        if not isinstance(given, Distribution):
            raise TypeError(
                f"{role} is a {type(given).__name__}; give a distribution, of one family: "
                "posteriors(guide) holds one by name"
            )
        if given is not posterior and len(given.batch_shape) > len(posterior.batch_shape):
            raise ValueError(
                f"the {role} has the batch shape {tuple(given.batch_shape)} and the posterior "
                f"{tuple(posterior.batch_shape)}; the order is delta_f(posterior, prior, reduced)"
            )
    elements = Elements.of(posterior, prior, reduced)
    types = type(elements.posterior), type(elements.prior), type(elements.reduced)
    form = _most_specific(types)
    if form is not None:
        return elements.total(form(elements.posterior, elements.prior, elements.reduced))
    estimate = monte_carlo_delta_f(posterior, prior, reduced)
    warnings.warn(
        f"no closed form of delta_f for ({_names(types)}): Monte Carlo estimate with a standard error "
        f"of up to {estimate.standard_error.max():.2g} nats; add one with register_delta_f",
        stacklevel=2,
    )
    return estimate.value


def register_delta_f(
    posterior_type: type[Distribution], prior_type: type[Distribution], reduced_type: type[Distribution]
) -> Callable[[Form], Form]:
    """Decorator that registers a closed form of ΔF for three distribution types and their subclasses.

        @register_delta_f(MyPosterior, MyPrior, MyReduced)
        def form(posterior, prior, reduced):
            return ...

    Args:
        posterior_type: Type of q.
        prior_type: Type of p.
        reduced_type: Type of p̃.

    Returns:
        The decorator; the function takes the three distributions and returns ΔF as `delta_f` does.

    Raises:
        TypeError: An argument is not a distribution type.
    """
    types = posterior_type, prior_type, reduced_type
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, Distribution)):
            raise TypeError(f"register_delta_f needs three Distribution types, got {kind!r}")

    def register(form: Form) -> Form:
        _FORMS[types] = form
        return form

    return register


def _most_specific(types: Types) -> Callable[..., Tensor] | None:
    """The form whose types are nearest in the class hierarchy, as torch finds a KL divergence."""

    def distances(key: Types) -> list[int]:
        return [kind.__mro__.index(base) for kind, base in zip(types, key, strict=True)]

    matches = [key for key in _FORMS if all(map(issubclass, types, key))]
    if not matches:
        return None
    left = min(matches, key=distances)
    right = min(matches, key=lambda key: distances(key)[::-1])
    if left != right:
        warnings.warn(
            f"delta_f for ({_names(types)}) is ambiguous between ({_names(left)}) and ({_names(right)}): "
            "the first is used; register the exact types",
            RuntimeWarning,
            stacklevel=3,
        )
    return _FORMS[left]


def _names(types: Iterable[type]) -> str:
    return ", ".join(kind.__name__ for kind in types)


@register_delta_f(TruncatedLogNormal, LogUniform, TruncatedLogNormal)
def _delta_f_truncated_log_normal(
    q: TruncatedLogNormal, p: LogUniform, reduced: TruncatedLogNormal
) -> Tensor:
    """BMRS_N: the product of two normals is a normal; densities relative to its mode do not cancel.

    With I the integrals of the relative densities e_q, e_p̃ and of their product, whose mode is m:
    ΔF = log(log high − log low) + e_q(m) + e_p̃(m) + log I_qp̃ − log I_q − log I_p̃.
    """
    _refuse_outside(q, p, reduced)
    # relative to the spike: its width of 1e-6 would be lost in the rounding of log low
    origin = reduced.log_distribution.mode
    distribution, spike = q.log_distribution.seen_from(origin), reduced.log_distribution.seen_from(origin)
    ratio = spike.scale / distribution.scale
    weight = ratio**2 / (1 + ratio**2)
    product = TruncatedNormal(
        spike.loc + (distribution.loc - spike.loc) * weight,
        spike.scale / (1 + ratio**2).sqrt(),
        spike.low,
        spike.high,
    ).cut(distribution.low, distribution.high)
    at_mode = distribution.log_density(product.mode) + spike.log_density(product.mode)
    return p.log_width.log() + at_mode + product.integral.log()


@register_delta_f(TruncatedLogNormal, LogUniform, LogUniform)
def _delta_f_log_uniform(q: TruncatedLogNormal, p: LogUniform, reduced: LogUniform) -> Tensor:
    """BMRS_U: ΔF = log q(reduced interval) − log(width of the reduced interval / width of the prior's)."""
    _refuse_outside(q, p, reduced)
    distribution = q.log_distribution
    part = distribution.cut(reduced.log_low, reduced.log_high)
    log_mass = distribution.log_density(part.mode) + part.integral.log()
    return log_mass + p.log_width.log() - reduced.log_width.log()


@register_delta_f(Distribution, Distribution, dist.Delta)
def _delta_f_point_mass(q: Distribution, p: Distribution, reduced: dist.Delta) -> Tensor:
    """The Savage–Dickey ratio; −∞ where the posterior has no density."""
    point = reduced.v.double()
    if point.dim() and point.shape[-1:] not in ((1,), q.batch_shape[-1:]):
        raise ValueError(
            f"the reduced prior is a point mass of shape {tuple(point.shape)}, and the posterior has the batch shape "
            f"{tuple(q.batch_shape)}: give a point for each structure"
        )
    if p.support is not None and not p.support.check(point).all():
        raise ValueError(
            f"the reduced prior is a point mass where the prior has no density, such as {float(point.min()):g}; "
            "spike(prior) is at the lower bound of a LogUniform"
        )
    inside = torch.ones_like(point, dtype=torch.bool) if q.support is None else q.support.check(point)
    log_q = q.log_prob(point.where(inside, q.mean)).double().where(inside, -torch.inf)
    return log_q - p.log_prob(point).double() + reduced.log_density


def _refuse_outside(q: TruncatedLogNormal, p: LogUniform, reduced: IntervalDistribution) -> None:
    """Refuse a posterior or a reduced prior that has mass where the prior has none."""
    for role, other, what in (
        ("posterior", q, "pass the prior that the posterior was fitted under"),
        ("reduced prior", reduced, "pass one inside it, or fit under a prior that holds it"),
    ):
        if not p.contains(other).all():
            raise ValueError(
                f"the {role}'s interval [{other.low}, {other.high}] reaches outside the prior's [{p.low}, {p.high}]: "
                + what
            )
