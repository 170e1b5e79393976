"""Criteria by the names the command line knows them by."""

from __future__ import annotations

__all__ = ["RANKED", "ranked_criterion"]

from collections.abc import Mapping

from bmrs_pyro import distributions, reduction
from bmrs_pyro import network as networks

RANKED = ("expected", "l2")


def ranked_criterion(
    name: str,
    network: networks.NoisyNetwork,
    posteriors: Mapping[str, distributions.TruncatedLogNormal],
    prior: distributions.LogUniform,
    fraction: float | None,
) -> reduction.Criterion:
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
        reference = reduction.select(posteriors, prior, reduction.bmrs_n())
        fraction = reference.removed / max(reference.total, 1)
    if name == "l2":
        return reduction.WeightNorm(fraction, networks.producer_norms(network))
    return reduction.WeightNorm(fraction, {site: q.mean for site, q in posteriors.items()})
