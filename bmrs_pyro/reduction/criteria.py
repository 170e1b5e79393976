"""Criteria: what makes a structure worth removing. A score above 0 means remove."""

from __future__ import annotations

__all__ = [
    "Criterion",
    "ExpectedGain",
    "JointCriterion",
    "ModelReduction",
    "SignalToNoise",
    "WeightNorm",
    "bmrs_n",
    "bmrs_u",
    "refuse_no_criterion",
]

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import IntervalDistribution
from bmrs_pyro.reduction.evidence import delta_f
from bmrs_pyro.reduction.reduced_priors import low_precision, spike


@runtime_checkable
class JointCriterion(Protocol):
    """A criterion that must see all families at once, because it ranks structures across them."""

    def scores(self, posteriors: Mapping[str, Distribution]) -> dict[str, Tensor]:
        """Scores of every family by site name, each of shape `(C,)`."""


Criterion = Callable[[Distribution, Distribution], Tensor] | JointCriterion
"""Any callable (posterior, prior) -> scores of shape `(C,)` for one family, or a `JointCriterion`."""


def refuse_no_criterion(criterion: Any) -> None:
    """Raise TypeError if an object is no criterion, such as ``bmrs_n`` in the place of ``bmrs_n()``."""
    joint = isinstance(criterion, JointCriterion)
    judge, takes = (criterion.scores, ("posteriors",)) if joint else (criterion, ("posterior", "prior"))
    try:
        inspect.signature(judge).bind(*takes)
    except ValueError:  # of a builtin that does not tell its arguments
        return
    except TypeError:
        name = getattr(criterion, "__name__", type(criterion).__name__)
        raise TypeError(
            f"the criterion {name} cannot be called with ({', '.join(takes)}); give a function that can, or an object "
            "such as bmrs_n() or SignalToNoise(1.0)"
        ) from None


@dataclass(frozen=True)
class ModelReduction:
    """Remove where the log posterior odds favour the reduced model: score = ΔF + log_prior_odds.

    Args:
        reduced: The reduced prior, or a function that makes it from the prior.
        log_prior_odds: Log prior odds of the reduced against the full model, in nats. If the data say nothing
            about a structure, ΔF = 0: a tie at log odds of 0; at positive log odds the smaller model wins.

    Raises:
        TypeError: `reduced` is neither a distribution nor a function.
        ValueError: `log_prior_odds` is no finite number.

    Reference:
        Wright, Igel and Selvan, "BMRS: Bayesian Model Reduction for Structured Pruning", 2024, section 3.
    """

    reduced: Distribution | Callable[..., Distribution]
    log_prior_odds: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.reduced, Distribution) or callable(self.reduced)):
            raise TypeError(f"reduced is {self.reduced!r}; give a distribution, or a function such as spike")
        odds: Any = self.log_prior_odds
        if isinstance(odds, bool) or not isinstance(odds, Real) or not math.isfinite(odds):
            raise ValueError(f"log_prior_odds is {odds!r}; it must be a finite number, in nats")

    def __call__(self, posterior: Distribution, prior: Distribution) -> Tensor:
        """Scores of one family, `(C,)` in nats."""
        return delta_f(posterior, prior, self.reduced_prior(prior)) + self.log_prior_odds

    def reduced_prior(self, prior: Distribution) -> Distribution:
        """The reduced prior that belongs to a prior."""
        return self.reduced if isinstance(self.reduced, Distribution) else self.reduced(prior)


def bmrs_n() -> ModelReduction:
    """BMRS_N: the reduced prior is a spike at the lower bound, favoured by 1 nat.

    Evidence below 1 nat is "not worth more than a bare mention": a structure with less evidence for it is removed.

    Reference:
        Kass and Raftery, "Bayes Factors", 1995, section 3.2.
    """
    return ModelReduction(spike, log_prior_odds=1.0)


def bmrs_u(bits: int) -> ModelReduction:
    """BMRS_U: the reduced prior holds the gains that vanish at `bits` bits; even odds, as published."""
    return ModelReduction(low_precision(bits))


@dataclass(frozen=True)
class SignalToNoise:
    """Remove where E[θ]/std[θ] ≤ threshold; score = threshold − E[θ]/std[θ].

    Args:
        threshold: Largest ratio that is removed.

    Reference:
        Neklyudov et al., "Structured Bayesian Pruning via Log-Normal Multiplicative Noise", 2017, section 3.
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        _refuse_no_threshold(self.threshold)

    def __call__(self, posterior: Distribution, prior: Distribution) -> Tensor:
        """Scores of one family, `(C,)`."""
        if isinstance(posterior, IntervalDistribution):
            return _at_most(self.threshold, posterior.signal_to_noise)
        return _at_most(self.threshold, posterior.mean / posterior.stddev)


@dataclass(frozen=True)
class ExpectedGain:
    """Remove where E[θ] ≤ threshold; score = threshold − E[θ].

    Args:
        threshold: Largest expected gain that is removed.
    """

    threshold: float

    def __post_init__(self) -> None:
        _refuse_no_threshold(self.threshold)

    def __call__(self, posterior: Distribution, prior: Distribution) -> Tensor:
        """Scores of one family, `(C,)`."""
        return _at_most(self.threshold, posterior.mean)


def _refuse_no_threshold(threshold: object) -> None:
    if not isinstance(threshold, Real):
        raise TypeError(f"threshold is {threshold!r}; give a number, such as 0.5")
    if not float(threshold) >= 0:
        raise ValueError(f"threshold is {threshold!r}; gains are positive, so give at least 0")


def _at_most(threshold: float, statistic: Tensor) -> Tensor:
    """Threshold − statistic, positive at equality too, because a score of exactly 0 means keep."""
    return math.nextafter(threshold, math.inf) - statistic.double()


@dataclass(frozen=True)
class WeightNorm:
    """Remove the given fraction of all structures, those with the smallest L2 norm of their producers' weights.

    The ranking runs over all families together; score = number to remove − ½ − rank, with ranks from 0.

    Args:
        fraction: Share of all structures to remove, in [0, 1]; rounded to a whole number of them.
        norms: L2 norms by site name, each of shape `(C,)`, from `producer_norms(network)`. `fit` sets them.
        total: Number of structures that `fraction` refers to; structures removed earlier count towards the fraction.
            None takes the number of scored structures. `fit` sets it to the number at its start.

    Raises:
        ValueError: `fraction` is outside [0, 1]; when scoring, the norms are missing or do not fit, or `total` is
            less than the number scored.
    """

    fraction: float
    norms: Mapping[str, Tensor] | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction must lie in [0, 1], got {self.fraction}")

    def scores(self, posteriors: Mapping[str, Distribution]) -> dict[str, Tensor]:
        """Scores of every family by site name, `(C,)` each."""
        if self.norms is None:
            raise ValueError(
                "WeightNorm needs weights: pass WeightNorm(fraction, norms=producer_norms(network))"
            )
        for name, posterior in posteriors.items():
            if name not in self.norms:
                raise ValueError(f"WeightNorm has no norms for {name!r}, only for {sorted(self.norms)}")
            if self.norms[name].shape != posterior.batch_shape:
                raise ValueError(
                    f"norms of {name!r} have shape {tuple(self.norms[name].shape)}, the posterior has "
                    f"{tuple(posterior.batch_shape)}: take them from the network as it is now"
                )
        if not posteriors:
            return {}
        pooled = torch.cat([self.norms[name].detach().double() for name in posteriors])
        rank = pooled.argsort(stable=True).argsort()
        # NaN would rank as the largest norm and be kept silently
        total = len(pooled) if self.total is None else self.total
        if total < len(pooled):
            raise ValueError(f"WeightNorm scores {len(pooled)} structures, more than the total of {total}")
        remove = max(round(self.fraction * total) - (total - len(pooled)), 0)
        scores = (remove - 0.5 - rank).where(~pooled.isnan(), torch.nan)
        sizes = [self.norms[name].numel() for name in posteriors]
        return dict(zip(posteriors, scores.split(sizes), strict=True))
