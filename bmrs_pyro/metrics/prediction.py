"""What a network predicts when its gains are drawn from the posterior, and how sure it is."""

from __future__ import annotations

__all__ = ["ClassPrediction", "Prediction", "ValuePrediction", "averaged", "predict"]

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, overload

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import refuse_unnamed
from bmrs_pyro.inference import Outcome, class_log_probabilities, mixture
from bmrs_pyro.inference.draws import refuse_no_draws
from bmrs_pyro.inference.inputs import not_running
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.metrics.evaluation import evaluation_mode
from bmrs_pyro.metrics.scoring import Predictor, predicted
from bmrs_pyro.network import NoisyNetwork

DRAWS = 100


@dataclass(frozen=True)
class ClassPrediction:
    """Class probabilities p(θ) of B examples over draws of the gains, in float64.

    If an example has several labels, their dimensions come before the classes. Binary labels have two classes.

    Attributes:
        log_mean: log E[p], ``(B, …, K)``; the softmax of these logits is E[p].
        variance: Var[p], ``(B, …, K)``.
        expected_entropy: E[H(p)], ``(B, …)`` nats: the uncertainty that would remain if the gains were known.
    """

    log_mean: Tensor
    variance: Tensor
    expected_entropy: Tensor

    @property
    def mean(self) -> Tensor:
        """E[p], ``(B, …, K)``: the posterior predictive probabilities."""
        return self.log_mean.exp()

    @property
    def entropy(self) -> Tensor:
        """H(E[p]), ``(B, …)`` nats: the total uncertainty about the label."""
        return _entropy(self.log_mean)

    @property
    def mutual_information(self) -> Tensor:
        """H(E[p]) − E[H(p)], ``(B, …)`` nats: the information of the label about the gains (Houlsby et al. 2011)."""
        return (self.entropy - self.expected_entropy).clamp(min=0)


@dataclass(frozen=True)
class ValuePrediction:
    """Values or counts of B examples over draws of the gains, in their own units.

    Attributes:
        mean: E[y], ``(B, …)``.
        variance: Var[y], ``(B, …)``: the total uncertainty about the value.
        expected_variance: E[Var(y | θ)], ``(B, …)``: the noise that would remain if the gains were known.
    """

    mean: Tensor
    variance: Tensor
    expected_variance: Tensor


Prediction = ClassPrediction | ValuePrediction


@overload
def predict(
    network: NoisyNetwork, posteriors: Mapping[str, Distribution], x: Any, draws: int = DRAWS
) -> ClassPrediction: ...
@overload
def predict(
    network: NoisyNetwork,
    posteriors: Mapping[str, Distribution],
    x: Any,
    draws: int = DRAWS,
    *,
    likelihood: str | Likelihood,
) -> Prediction: ...
def predict(
    network: NoisyNetwork,
    posteriors: Mapping[str, Distribution],
    x: Any,
    draws: int = DRAWS,
    *,
    likelihood: str | Likelihood | None = None,
) -> Prediction:
    """Predict a batch under draws of the gains; all examples share a draw.

    Moments are updated draw by draw (Welford), so memory does not grow with the number of draws.

    Args:
        network: maps inputs and gains to outputs.
        posteriors: q(θ_f) by site name, from which the gains are drawn.
        x: inputs ``(B, …)``, or a tuple or dict of them, on the network's device.
        draws: number of draws, at least 1.
        likelihood: distribution of y given the outputs, such as ``model.likelihood`` or a name, see
            :func:`bmrs_pyro.inference.as_likelihood`; by default outputs are logits ``(B, K)`` of two or more classes.

    Returns:
        a :class:`ClassPrediction` for class and binary labels, otherwise a :class:`ValuePrediction`.

    Raises:
        ValueError: fewer than one draw, or the outputs do not fit the likelihood.
    """
    refuse_no_draws(draws)
    with evaluation_mode(network, likelihood):
        found = _draws(network, posteriors, x, draws, likelihood)
        first = next(found)
        outcome = Outcome.of(first)
        if outcome.log_p is not None:
            return _of_classes(outcome.log_p, found)
        if outcome.mean is None:
            raise ValueError(
                f"a {type(first).__name__} has no mean to predict; use averaged for its distribution"
            )
        return _of_values(first, found)


def averaged(
    network: NoisyNetwork,
    posteriors: Mapping[str, Distribution],
    draws: int = DRAWS,
    *,
    likelihood: str | Likelihood = "categorical",
) -> Callable[[Any], Any]:
    """Return a function for :func:`evaluate` that maps inputs to a prediction averaged over draws of the gains.

    It returns log E[p] ``(B, K)``, usable as logits, if every example has one class. Otherwise it returns a
    distribution: for classes one with the mean probabilities, for values the mixture over the draws.
    :func:`evaluate` does not apply its own likelihood to it again.
    """
    refuse_no_draws(draws)

    def together(x: Any) -> TorchDistribution:
        with evaluation_mode(network, likelihood):
            return mixture(_draws(network, posteriors, x, draws, likelihood))

    return Predictor(together)


def _draws(
    network: NoisyNetwork,
    posteriors: Mapping[str, Distribution],
    x: Any,
    draws: int,
    likelihood: str | Likelihood | None,
) -> Iterator[TorchDistribution]:
    refuse_unnamed(posteriors)
    for _ in range(draws):
        theta = {name: posterior.sample() for name, posterior in posteriors.items()}
        try:
            outputs = network(x, theta)
        except RuntimeError as error:
            raise not_running(x, error) from error
        if (
            likelihood is None
            and isinstance(outputs, Tensor)
            and (outputs.dim() != 2 or outputs.shape[1] < 2)
        ):
            raise ValueError(
                f"the outputs have shape {tuple(outputs.shape)}; expected logits (batch, K) of two or more classes: "
                "for other outputs name the likelihood, such as likelihood='categorical' for (batch, T, K) or maps, "
                "'normal:0.1', 'bernoulli', model.likelihood"
            )
        yield predicted(outputs, likelihood or "categorical")


def _of_classes(log_p: Tensor, others: Iterable[TorchDistribution]) -> ClassPrediction:
    log_sum = log_p = log_p.double()
    mean, entropy, number = log_p.exp(), _entropy(log_p), 1
    squares = torch.zeros_like(mean)
    for other in others:
        number += 1
        log_p = class_log_probabilities(other).double()
        p = log_p.exp()
        log_sum = torch.logaddexp(log_sum, log_p)
        step = p - mean
        mean = mean + step / number
        squares = squares + step * (p - mean)
        entropy = entropy + (_entropy(log_p) - entropy) / number
    return ClassPrediction(log_sum - math.log(number), squares / number, entropy)


def _of_values(first: TorchDistribution, others: Iterable[TorchDistribution]) -> ValuePrediction:
    mean, noise, number = first.mean, first.variance, 1
    squares = torch.zeros_like(mean)
    for other in others:
        number += 1
        step = other.mean - mean
        mean = mean + step / number
        squares = squares + step * (other.mean - mean)
        noise = noise + (other.variance - noise) / number
    return ValuePrediction(mean, squares / number + noise, noise)


def _entropy(log_p: Tensor) -> Tensor:
    # a probability of 0 adds nothing; without the clamp 0 · −inf would be NaN
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum(-1)
