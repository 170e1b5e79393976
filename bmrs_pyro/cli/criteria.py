"""Criteria by the names the command line knows them by."""

from __future__ import annotations

__all__ = ["RANKED", "ranked_criterion"]

from collections.abc import Mapping

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.network import NoisyNetwork, producer_norms
from bmrs_pyro.reduction import Criterion, WeightNorm, bmrs_n, select

RANKED = ("expected", "l2")


def ranked_criterion(
    name: str,
    network: NoisyNetwork,
    posteriors: Mapping[str, TruncatedLogNormal],
    prior: LogUniform,
    fraction: float | None,
) -> Criterion:
    """Return ``expected`` or ``l2``, which rank structures and need to be told how many to remove.

    Args:
        name: ``expected`` (smallest E[θ]) or ``l2`` (smallest norm of the producers' weights).
        network: the network, for its weights.
        posteriors: posteriors of its gains.
        prior: their prior.
        fraction: share of all structures to remove; None takes BMRS_N's share, as published.

    Raises:
        ValueError: when scoring, the fraction is outside [0, 1].
    """
    if fraction is None:
        reference = select(posteriors, prior, bmrs_n())
        fraction = reference.removed / max(reference.total, 1)
    if name == "l2":
        return WeightNorm(fraction, producer_norms(network))
    return WeightNorm(fraction, {site: q.mean for site, q in posteriors.items()})
