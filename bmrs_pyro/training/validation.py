"""Validation scores of the network at the posterior mean of its gains."""

from __future__ import annotations

__all__ = ["Score", "checked_score", "mean_of", "validate", "validate_predictions"]

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bmrs_pyro.distributed import all_reduce_sum_
from bmrs_pyro.inference.inputs import gaps, inputs_on, is_finite, labelled, not_running, pairs
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.inference.observations import (
    NonFiniteLoss,
    misfit_of,
    observed,
    unfit_parameters,
    validated,
)
from bmrs_pyro.inference.outcomes import Outcome
from bmrs_pyro.network.nested import tensors_in
from bmrs_pyro.network.untouched import modes_kept


class Score(NamedTuple):
    """Validation score.

    Attributes:
        accuracy: share of scored labels for which the most probable class is right; None if the likelihood has no
            classes.
        log_likelihood: mean log p(y | x, θ), nats per example.
        rmse: root mean square of y − E[y | x, θ] over all scored values, in units of y; None for classes.
        accuracy_error: standard error of the accuracy over the scored labels; None without accuracy.
        log_likelihood_error: standard error of the log-likelihood over the examples.
        rmse_error: standard error of the RMSE over the scored values; None without RMSE.
    """

    accuracy: float | None
    log_likelihood: float
    rmse: float | None = None
    accuracy_error: float | None = None
    log_likelihood_error: float | None = None
    rmse_error: float | None = None


class _Sums(NamedTuple):
    examples: float = 0
    log_likelihood: float = 0.0
    log_likelihood_squared: float = 0.0
    labels: float = 0
    hits: float = 0
    values: float = 0
    squares: float = 0.0
    fourth_powers: float = 0.0
    unknown: float = 0
    """Batches with neither classes nor a mean."""

    @classmethod
    def of(cls, distribution: dist.TorchDistribution, y: Tensor) -> _Sums:
        y = observed(distribution, y)
        outcome = Outcome.of(distribution)
        scores = distribution.log_prob(y).double()
        common = len(y), scores.sum().item(), scores.square().sum().item()
        if outcome.log_p is not None:
            labels = outcome.labels(y)
            counted = outcome.counted(labels)
            hits = (outcome.log_p.argmax(-1) == labels)[counted]
            return cls(*common, labels=hits.numel(), hits=hits.sum().item())
        if outcome.mean is None or outcome.mean.shape != y.shape:
            return cls(*common, unknown=1)
        squares = (y - outcome.mean)[outcome.counted(y)].double().square()
        powers = squares.square().sum().item()
        return cls(*common, values=squares.numel(), squares=squares.sum().item(), fourth_powers=powers)


def validate(model: SupervisedModel, theta: Mapping[str, Tensor], batches: Iterable[Any]) -> Score:
    """Score the model at fixed gains, as :func:`validate_predictions` does.

    Args:
        model: the model whose network and likelihood predict.
        theta: gains ``(C_f,)`` by site name, such as the posterior means.
        batches: batches as for :func:`fit`.
    """
    return validate_predictions(lambda x: model.likelihood(model.network(x, theta)), model, batches)


@torch.no_grad()
@validated()
def validate_predictions(
    predict: Callable[[Any], dist.TorchDistribution], model: nn.Module, batches: Iterable[Any]
) -> Score:
    """Score predictions, with the model in evaluation mode; every module's mode is restored.

    Several processes add up their sums: each may have a part of the data, or all may have the same data.

    Args:
        predict: returns p(y | x), given a batch's inputs.
        model: the model that predicts; batches are moved to its device.
        batches: batches as for :func:`fit`.

    Raises:
        ValueError: there are no examples.
        NonFiniteLoss: the distribution refuses what the network puts out.
    """
    device = next(model.parameters()).device
    total = torch.zeros(len(_Sums._fields), dtype=torch.float64)
    with modes_kept(model):
        model.eval()
        for x, y in labelled("validation data", batches):
            x, y = inputs_on(device, x), y.to(device)
            if not len(y):  # another process has all of a short batch
                continue
            try:
                distribution = predict(x)
            except RuntimeError as error:
                raise ValueError(f"validation: {not_running(x, error)}") from error
            except ValueError as error:
                if not unfit_parameters(error):
                    raise
                raise NonFiniteLoss(
                    "validation: the network's outputs or the likelihood's parameters are NaN or infinite; if training "
                    "diverged, lower the learning rate"
                ) from None
            total += torch.tensor(_sums(distribution, y), dtype=torch.float64)
    sums = _Sums(*all_reduce_sum_(total).tolist())
    if not sums.examples:
        raise ValueError(
            "the validation data hold no examples: a generator can be read only once; fit() also takes validation=None"
        )
    only_labels = sums.labels and not (sums.values or sums.unknown)
    only_values = sums.values and not (sums.labels or sums.unknown)
    rmse = math.sqrt(sums.squares / sums.values) if only_values else None
    of_square = _standard_error(sums.values, sums.squares, sums.fourth_powers) if rmse else None
    return Score(
        accuracy=sums.hits / sums.labels if only_labels else None,
        log_likelihood=sums.log_likelihood / sums.examples,
        rmse=rmse,
        # two more hits and two more misses (Agresti and Coull 1998): with few labels, no error is no certainty
        accuracy_error=_standard_error(sums.labels + 4, sums.hits + 2, sums.hits + 2)
        if only_labels
        else None,
        log_likelihood_error=_standard_error(sums.examples, sums.log_likelihood, sums.log_likelihood_squared),
        rmse_error=of_square / (2 * rmse) if rmse and of_square is not None else rmse,
    )


def checked_score(model: SupervisedModel, batches: Iterable[Any]) -> Score:
    """Score a network with all gains 1, and refuse gaps in the data that spoil the score.

    Raises:
        ValueError: the score is no finite number, because NaN or inf is among the data.
    """
    try:
        score = validate(model, {}, batches)
    except (ValueError, NonFiniteLoss):  # a distribution may refuse what a network makes of NaN
        _refuse_gaps(batches)
        raise
    if not math.isfinite(score.log_likelihood):
        _refuse_gaps(batches)
    return score


def _refuse_gaps(batches: Iterable[Any]) -> None:
    if not all(is_finite(batch) for batch in pairs(batches)):
        raise ValueError(gaps("validation data"))


def mean_of(batches: Iterable[Any]) -> float:
    """Return the sum of all numbers in the inputs and labels, per example, to know the data by."""
    sums = torch.zeros(2, dtype=torch.float64)
    for x, y in labelled("validation data", batches):
        sums += torch.tensor([sum(float(part.double().sum()) for part in tensors_in((x, y))), len(y)])
    total, count = all_reduce_sum_(sums).tolist()
    return total / max(count, 1.0)


def _sums(distribution: dist.TorchDistribution, y: Tensor) -> _Sums:
    try:
        return _Sums.of(distribution, y)
    except ValueError as error:  # Pyro's message holds all labels
        raise ValueError(f"validation: {misfit_of(distribution, y) or error}") from None


def _standard_error(count: float, total: float, squared: float) -> float:
    """Return the standard error of a mean from the sums of values and of their squares."""
    return math.sqrt(max(0.0, squared / count - (total / count) ** 2) / max(count - 1, 1))
