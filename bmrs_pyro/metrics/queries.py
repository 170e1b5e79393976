"""Queries of the gains' posteriors: quantiles, probabilities, highest-density intervals."""

from __future__ import annotations

__all__ = ["hdi", "probability_below", "quantile"]

from collections.abc import Callable, Mapping
from numbers import Real
from typing import cast

import torch
from torch import Tensor

from bmrs_pyro.distributions import TruncatedLogNormal, refuse_unnamed, unwrapped

Posteriors = Mapping[str, TruncatedLogNormal]

_BISECTIONS = 60  # halvings of [0, 1 − mass]: below float64's spacing


def quantile(posteriors: Posteriors, level: float) -> dict[str, Tensor]:
    """Return the gain below which q has the mass ``level``, ``(C_f,)`` per family.

    Args:
        posteriors: q(θ_f) by site name, as :func:`bmrs_pyro.posteriors` returns them.
        level: probability, in [0, 1].

    Raises:
        ValueError: the level is not a probability.
        TypeError: it is no number, or a posterior is no TruncatedLogNormal.
    """
    _check("level", level, lambda number: 0 <= number <= 1, "in [0, 1]")
    return _each(posteriors, lambda q: q.icdf(torch.full_like(q.loc, level, dtype=torch.float64)))


def probability_below(posteriors: Posteriors, level: float) -> dict[str, Tensor]:
    """Return Q(θ ≤ level), ``(C_f,)`` per family.

    Args:
        posteriors: q(θ_f) by site name.
        level: a gain, positive; at and above the prior's upper bound the result is 1.

    Raises:
        ValueError: the level is not positive.
        TypeError: it is no number, or a posterior is no TruncatedLogNormal.
    """
    _check("level", level, lambda number: number > 0, "positive")
    return _each(posteriors, lambda q: q.cdf(torch.full_like(q.loc, level, dtype=torch.float64)))


def hdi(posteriors: Posteriors, mass: float = 0.9) -> dict[str, Tensor]:
    """Return the shortest interval of θ that has the given mass, ``(C_f, 2)`` per family.

    The density of θ has one mode, so the interval [Q⁻¹(p), Q⁻¹(p + mass)] is shortest when both ends have equal
    density or one touches a bound. Bisection finds p.

    Args:
        posteriors: q(θ_f) by site name.
        mass: probability of the interval, in (0, 1).

    Raises:
        ValueError: the mass is not inside (0, 1).
        TypeError: it is no number, or a posterior is no TruncatedLogNormal.
    """
    _check("mass", mass, lambda number: 0 < number < 1, "in (0, 1)")
    return _each(posteriors, lambda q: _shortest(q, mass))


def _shortest(q: TruncatedLogNormal, mass: float) -> Tensor:
    # in float64: rounding would make both ends of a narrow posterior equally dense too early
    wide = TruncatedLogNormal(q.loc.double(), q.scale.double(), q.low, q.high)
    left, right = torch.zeros_like(wide.loc), torch.full_like(wide.loc, 1 - mass)
    for _ in range(_BISECTIONS):
        middle = (left + right) / 2
        rising = wide.log_prob(wide.icdf(middle)) < wide.log_prob(wide.icdf(middle + mass))
        left, right = middle.where(rising, left), right.where(rising, middle)
    start = (left + right) / 2
    return torch.stack([wide.icdf(start), wide.icdf(start + mass)], dim=-1)


@torch.no_grad()
def _each(posteriors: Posteriors, ask: Callable[[TruncatedLogNormal], Tensor]) -> dict[str, Tensor]:
    refuse_unnamed(posteriors)
    # posteriors of a hand-written guide may be under to_event
    inner = {name: unwrapped(q) for name, q in posteriors.items()}
    for name, q in inner.items():
        if not isinstance(q.base, TruncatedLogNormal):
            raise TypeError(
                f"the posterior of {name!r} is a {type(q.base).__name__}; give TruncatedLogNormal posteriors"
            )
    return {name: ask(cast(TruncatedLogNormal, q.base.expand(q.shape))) for name, q in inner.items()}


def _check(name: str, value: float, valid: Callable[[float], bool], expected: str) -> None:
    if not isinstance(value, Real) and not (isinstance(value, Tensor) and value.numel() == 1):
        raise TypeError(f"{name} is a {type(value).__name__}; give one number, {expected}")
    if not valid(value):
        raise ValueError(f"{name} is {value}; it must be {expected}")
