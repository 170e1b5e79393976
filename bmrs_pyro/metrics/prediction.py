"""What a classifier predicts when its gains are drawn from the posterior, and how sure it is."""

from __future__ import annotations

__all__ = ["Prediction", "averaged", "predict"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.metrics.evaluation import evaluation_mode
from bmrs_pyro.network import NoisyNetwork

DRAWS = 100


@dataclass(frozen=True)
class Prediction:
    """Class probabilities p(θ) of B examples over draws of the gains, in float64.

    Attributes:
        log_mean: log E[p], ``(B, K)``; as logits it gives E[p].
        variance: Var[p], ``(B, K)``.
        expected_entropy: E[H(p)], ``(B,)`` nats: the doubt that better known gains would leave.
    """

    log_mean: Tensor
    variance: Tensor
    expected_entropy: Tensor

    @property
    def mean(self) -> Tensor:
        """E[p], ``(B, K)``: the posterior predictive probabilities."""
        return self.log_mean.exp()

    @property
    def entropy(self) -> Tensor:
        """H(E[p]), ``(B,)`` nats: all doubt about the label."""
        return _entropy(self.log_mean)

    @property
    def mutual_information(self) -> Tensor:
        """H(E[p]) − E[H(p)], ``(B,)`` nats: what the label would tell about the gains (Houlsby et al. 2011)."""
        return (self.entropy - self.expected_entropy).clamp(min=0)


def predict(
    network: NoisyNetwork, posteriors: Mapping[str, Distribution], x: Tensor, draws: int = DRAWS
) -> Prediction:
    """Predict the classes of a batch under draws of the gains; one draw serves all examples.

    Moments are updated draw by draw (Welford), so that memory does not grow with the draws.

    Args:
        network: maps inputs and gains to logits ``(B, K)``.
        posteriors: q(θ_f) by site name, from which the gains are drawn.
        x: inputs ``(B, …)``, on the network's device.
        draws: number of draws, at least 1.

    Raises:
        ValueError: fewer than one draw, or the outputs are no logits of shape ``(B, K)``.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    with evaluation_mode(network):
        for number in range(1, draws + 1):
            theta = {name: posterior.sample() for name, posterior in posteriors.items()}
            logits = network(x, theta)
            if logits.dim() != 2:
                raise ValueError(f"the outputs have shape {tuple(logits.shape)}; expected logits (batch, K)")
            log_p = logits.double().log_softmax(1)
            p, entropy = log_p.exp(), _entropy(log_p)
            if number == 1:
                log_sum, mean, squares, doubt = log_p, p, torch.zeros_like(p), entropy
                continue
            log_sum = torch.logaddexp(log_sum, log_p)
            step = p - mean
            mean = mean + step / number
            squares = squares + step * (p - mean)
            doubt = doubt + (entropy - doubt) / number
    return Prediction(log_sum - math.log(draws), squares / draws, doubt)


def averaged(
    network: NoisyNetwork, posteriors: Mapping[str, Distribution], draws: int = DRAWS
) -> Callable[[Tensor], Tensor]:
    """Return a function from inputs to log E[p], which :func:`bmrs_pyro.reporting.evaluate` takes for logits."""
    return lambda x: predict(network, posteriors, x, draws).log_mean


def _entropy(log_p: Tensor) -> Tensor:
    # a probability of 0 is no doubt, where 0 · −inf is NaN
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum(1)
