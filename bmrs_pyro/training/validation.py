"""How well the network predicts held-out data at the posterior mean of its gains."""

from __future__ import annotations

__all__ = ["Score", "validate"]

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from bmrs_pyro.distributed import all_reduce_sum_
from bmrs_pyro.inference.inputs import inputs_on
from bmrs_pyro.inference.likelihoods import log_likelihoods
from bmrs_pyro.inference.model import SupervisedModel


class Score(NamedTuple):
    """Validation score.

    Attributes:
        accuracy: share of labels hit by the most probable one, None where the likelihood is not discrete.
        log_likelihood: mean log p(y | x, θ), nats per example.
    """

    accuracy: float | None
    log_likelihood: float


def _hits(distribution: dist.TorchDistribution, y: Tensor) -> Tensor | None:
    """Return per example whether the label is hit, ``(batch,)``; None for a continuous likelihood."""
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    if isinstance(distribution, dist.Categorical):
        return distribution.logits.argmax(-1) == y
    if isinstance(distribution, dist.Bernoulli):
        return ((distribution.logits > 0) == y.bool()).float().reshape(len(y), -1).mean(-1)
    return None


@torch.no_grad()
def validate(
    model: SupervisedModel, theta: Mapping[str, Tensor], batches: Iterable[tuple[Any, Tensor]]
) -> Score:
    """Score the model at fixed gains, in evaluation mode; the training mode is restored.

    Several processes pool their sums: each may have a part of the data, or all of them the same.

    Args:
        model: the model whose network and likelihood predict.
        theta: gains ``(C_f,)`` by site name, such as the posterior means.
        batches: pairs of inputs and labels; several inputs are a tuple or list.

    Raises:
        ValueError: there are no examples.
    """
    training = model.training
    model.eval()
    device = next(model.network.parameters()).device
    count, hits, log_likelihood = 0, 0.0, 0.0
    discrete = True
    try:
        for x, y in batches:
            x, y = inputs_on(device, x), y.to(device)
            if not len(y):  # another process has all of a short batch
                continue
            distribution = model.likelihood(model.network(x, theta))
            log_likelihood += log_likelihoods(distribution, y).double().sum().item()
            hit = _hits(distribution, y)
            if hit is None:
                discrete = False
            else:
                hits += hit.sum().item()
            count += len(y)
    finally:
        model.train(training)
    sums = torch.tensor([count, hits, log_likelihood, not discrete], dtype=torch.float64)
    count, hits, log_likelihood, continuous = all_reduce_sum_(sums).tolist()
    if not count:
        raise ValueError("the validation data hold no examples; pass validation=None to go without")
    return Score(None if continuous else hits / count, log_likelihood / count)
