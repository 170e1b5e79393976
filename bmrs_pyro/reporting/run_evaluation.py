"""Evaluations of a finished run on its test data."""

from __future__ import annotations

__all__ = [
    "compare_run",
    "left_posteriors",
    "predictor_of",
    "reduced_of",
    "reduced_prior_of",
    "run_evaluations",
]

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributions import AffineTransform, Distribution, TransformedDistribution

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.metrics import CORRUPTIONS, Evaluation, averaged, corrupted, evaluate
from bmrs_pyro.reduction import ModelReduction, named_criterion
from bmrs_pyro.reporting.comparison import NetworkMetrics, compare_networks
from bmrs_pyro.runs import RunDirectory, load_weights_, run_data, serving
from bmrs_pyro.runs.likelihoods import scored_by
from bmrs_pyro.runs.preparing import fitted_likelihood

_DRAWS = 30


def predictor_of(run: RunDirectory, draws: int | None) -> Callable[[Any], Any]:
    """Return a run's small network, or a predictor that averages over draws of its gains with a fixed seed.

    The means E[θ] are folded into the small network's weights, so a draw multiplies structure c by θ_c / E[θ_c].
    """
    if draws is None:
        return run.small()
    if run.config.cycle is not None:
        warnings.warn(
            f"the gains of {run.path} were 1 in training, so draws of them are from an approximation (Laplace) that "
            "the weights did not learn to bear, and can predict badly; leave the draws out",
            stacklevel=2,
        )
    torch.manual_seed(0)
    keep, network = run.decision().keep, run.noisy()
    if keep.removed:
        network.remove_(keep)
    network.net.load_state_dict(run.small().state_dict())
    gains: dict[str, Distribution] = dict(left_posteriors(run))
    if run.config.cycle is None:  # a trained network is reduced with gains of 1
        gains = {
            name: TransformedDistribution(q, AffineTransform(0.0, 1 / q.mean)) for name, q in gains.items()
        }
    return averaged(network, gains, draws, likelihood=run.likelihood())


def left_posteriors(run: RunDirectory) -> dict[str, TruncatedLogNormal]:
    """Return the posteriors of the structures that a run's last decision keeps, by site name."""
    _, posteriors, trained = run.network()
    keep = run.decision().keep
    left = {name: keep[name][trained[name]] for name in posteriors}
    return {
        name: TruncatedLogNormal(q.loc[left[name]], q.scale[left[name]], q.low, q.high)
        for name, q in posteriors.items()
    }


def compare_run(
    run: RunDirectory, weights: Path | None = None, *, repeats: int = 5
) -> dict[str, NetworkMetrics]:
    """Measure a run's dense and small network on its test data; an untrained dense network is not evaluated.

    If the likelihood has parameters, such as a learned scale, each network has its own.

    Args:
        run: the run.
        weights: trained weights of the dense network, if the run has none.
        repeats: number of rounds of ten calls for the median latency.

    Raises:
        WeightsError: the weights cannot be read, or do not fit.
    """
    dense, test = run.dense(), run_data(run).test
    if weights is not None:
        load_weights_(dense, weights)
    trained = weights is not None or run.dense_is_trained
    return compare_networks(
        {"dense": dense, "small": run.small()},
        serving(test, 500, shuffle=False),
        likelihood={
            "dense": scored_by(run.config, fitted_likelihood(run, dense)),
            "small": run.likelihood(),
        },
        untrained=() if trained else ("dense",),
        repeats=repeats,
    )


def run_evaluations(run: RunDirectory) -> Iterator[tuple[str, Evaluation]]:
    """Evaluate a run on its test data: the small network, the mean over draws of its gains, and corrupted inputs.

    Gains that were not trained, as in the reduction of a trained network, are not drawn.
    """
    test = run_data(run).test
    batches, small = serving(test, 500, shuffle=False), run.small()
    likelihood = run.likelihood()
    yield "test data", evaluate(small, batches, likelihood=likelihood)
    if run.config.cycle is None:
        predicted = predictor_of(run, _DRAWS)
        yield f"mean of {_DRAWS} draws of the gains", evaluate(predicted, batches, likelihood=likelihood)
    if run.stored_example() is not None:
        return  # tokens and several inputs are not corrupted
    for corruption in CORRUPTIONS if len(test.input_shape) == 3 else ("noise", "contrast"):
        damaged = corrupted(batches, corruption)
        yield f"{corruption}, degree 3 of 5", evaluate(small, damaged, likelihood=likelihood)


def reduced_prior_of(run: RunDirectory) -> Distribution | None:
    """Return the reduced prior of a run's decision; None if its criterion has no reduced prior."""
    name = run.decision().criterion
    criterion = named_criterion(name) if name.startswith("bmrs-") else None
    if not isinstance(criterion, ModelReduction):
        return None
    return reduced_of(criterion, run.network()[1])


def reduced_of(criterion: ModelReduction, posteriors: Mapping[str, TruncatedLogNormal]) -> Distribution:
    """Return the reduced prior of a criterion."""
    posterior = next(iter(posteriors.values()))
    return criterion.reduced_prior(LogUniform(posterior.low, posterior.high))
