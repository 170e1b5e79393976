"""The likelihood that a run is trained with, and the likelihood that scores its predictions."""

from __future__ import annotations

__all__ = ["likelihood_of", "scored_by"]

from bmrs_pyro.inference.likelihoods import OF_CLASSES, Likelihood, as_likelihood
from bmrs_pyro.runs.config import RunConfig


def likelihood_of(config: RunConfig) -> Likelihood:
    """Return a run's likelihood as it is before training: with smoothed labels, and with values in their units."""
    name = config.recipe.likelihood
    if name in OF_CLASSES:
        name = f"{name}:{config.recipe.label_smoothing}"
    return as_likelihood(name, centre=config.target_mean, unit=config.target_std)


def scored_by(config: RunConfig, trained: Likelihood) -> str | Likelihood:
    """Return the likelihood that scores predictions: for classes without smoothing, else the trained likelihood."""
    name = config.recipe.likelihood.partition(":")[0]
    return name if name in OF_CLASSES else trained
