"""Scoring and selecting: from posteriors to a `KeepMask`."""

from __future__ import annotations

__all__ = ["score_structures", "select"]

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal, refuse_unnamed, unwrapped
from bmrs_pyro.reduction.criteria import Criterion, JointCriterion, refuse_no_criterion
from bmrs_pyro.reduction.keep_mask import KeepMask

_NARROWER = 1e-3
"""Share of the prior's interval of log θ that a posterior may leave out before a warning says so."""


def select(
    posteriors: Mapping[str, Distribution],
    prior: Distribution | Mapping[str, Distribution],
    criterion: Criterion,
    *,
    min_keep: int = 1,
    limits: Callable[..., KeepMask] | None = None,
) -> KeepMask:
    """Decide which structures are kept: those whose score is at most 0.

    Args:
        posteriors: Site name to posterior of batch shape `(C,)`.
        prior: One prior for all families, or a prior per site name.
        criterion: Computes the scores.
        min_keep: Smallest number of structures that a family keeps; if it overrules the scores, a warning says so.
        limits: Budgets and multiples, such as `Limits(max_macs=...).on(network)`. It gets what the scores keep, the
            scores and `min_keep`, and returns what fits. Several budgets need only one posterior.

    Raises:
        ValueError: As `score_structures`, or `min_keep` is below 1.
        TypeError: `limits` is not for a network yet.
    """
    if limits is not None and not callable(limits):
        raise TypeError(
            f"limits is a {type(limits).__name__}; give limits of a network: Limits(...).on(network)"
        )
    scores = score_structures(posteriors, prior, criterion)
    keep = KeepMask.from_scores(scores, min_keep=min_keep)
    return keep if limits is None else limits(keep, scores, min_keep=min_keep)


@torch.no_grad()
def score_structures(
    posteriors: Mapping[str, Distribution],
    prior: Distribution | Mapping[str, Distribution],
    criterion: Criterion,
) -> dict[str, Tensor]:
    """Score every structure; above 0 means remove.

    Args:
        posteriors: Site name to posterior of batch shape `(C,)`, or `()` under `to_event(1)`. Scalars, of a
            hierarchical model, are left out.
        prior: One prior for all families, or a prior per site name.
        criterion: Computes the scores.

    Returns:
        Site name to scores of shape `(C,)`.

    Raises:
        TypeError: `posteriors` is no mapping to distributions, or the criterion is none or returns no tensors.
        ValueError: A family has no prior or no scores, or its scores are NaN or of another shape than the posterior.
    """
    refuse_unnamed(posteriors)
    refuse_no_criterion(criterion)
    elements = {name: _elements(q) for name, q in posteriors.items()}
    posteriors = {name: q for name, q in elements.items() if q.batch_shape}
    if isinstance(criterion, JointCriterion):
        scores = _of_all(criterion.scores(posteriors), posteriors)
    else:
        priors = {name: _prior_of(name, prior) for name in posteriors}
        _warn_of_other_priors(posteriors, priors)
        scores = {name: criterion(q, priors[name]) for name, q in posteriors.items()}
    for name, posterior in posteriors.items():
        if not isinstance(scores[name], Tensor):
            raise TypeError(
                f"{name}: the criterion returned a {type(scores[name]).__name__}, expected a tensor of shape "
                f"{tuple(posterior.batch_shape)}, one score for each structure"
            )
        if scores[name].shape != posterior.batch_shape:
            raise ValueError(
                f"{name}: the criterion returned scores of shape {tuple(scores[name].shape)}, "
                f"expected {tuple(posterior.batch_shape)}, one for each structure"
            )
        if scores[name].isnan().any():
            raise ValueError(
                f"{name}: {int(scores[name].isnan().sum())} scores are NaN; did training diverge?"
            )
    return scores


def _elements(posterior: Distribution) -> Distribution:
    """Undo `to_event`, which the sites of a guide need, but not a dimension of the distribution's own."""
    inner = unwrapped(posterior)
    return inner.base.expand(inner.shape) if inner.event_dims and not posterior.batch_shape else posterior


def _of_all(scores: Any, posteriors: Mapping[str, Distribution]) -> dict[str, Tensor]:
    """Return a joint criterion's scores of the families that have a posterior."""
    if not isinstance(scores, Mapping) or not posteriors.keys() <= scores.keys():
        found = list(scores) if isinstance(scores, Mapping) else type(scores).__name__
        raise ValueError(f"the criterion returned {found}, expected scores by name of {list(posteriors)}")
    return {name: scores[name] for name in posteriors}


def _warn_of_other_priors(posteriors: Mapping[str, Distribution], priors: Mapping[str, Distribution]) -> None:
    """Warn if the interval of a posterior is narrower than that of its prior, so that it probably has another one."""
    for name, q in posteriors.items():
        p = priors[name]
        if not (isinstance(q, TruncatedLogNormal) and isinstance(p, LogUniform)):
            continue
        (low, high), (least, most) = (
            (float(one.low.log().max()), float(one.high.log().min())) for one in (q, p)
        )
        if max(low - least, most - high) > _NARROWER * (most - least):
            warnings.warn(
                f"{name}: the posterior's interval [{math.exp(low):.3g}, {math.exp(high):.3g}] is narrower than the "
                f"prior's [{math.exp(least):.3g}, {math.exp(most):.3g}], as if it was fitted under another prior: pass "
                "the prior that it was fitted under, such as model.prior",
                stacklevel=5,
            )
            return


def _prior_of(name: str, prior: Distribution | Mapping[str, Distribution]) -> Distribution:
    if not isinstance(prior, Mapping):
        return prior
    if name not in prior:
        raise ValueError(f"no prior for {name!r}, only for {sorted(prior)}")
    return prior[name]
