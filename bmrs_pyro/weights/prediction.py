"""Predictions: averaged over draws of the weights, or by one plain network at their mean."""

from __future__ import annotations

__all__ = ["mean_network", "predictive"]

import copy
import math
from collections.abc import Callable

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from bmrs_pyro.weights.guide import MeanField, PointEstimate
from bmrs_pyro.weights.model import WeightModel


def predictive(model: WeightModel, guide: nn.Module, draws: int = 100) -> Callable[[Tensor], Tensor]:
    """Return x ↦ log (1/S) Σ_s p(y | x, W_s) for a categorical likelihood, with S draws of the weights per call.

    Args:
        model: the model.
        guide: its guide.
        draws: S.

    Raises:
        ValueError: fewer than one draw.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")

    def log_probabilities(x: Tensor) -> Tensor:
        # a store of its own: names in the global one may belong to another guide
        with torch.no_grad(), poutine.block(), pyro.get_param_store().scope():
            total = torch.tensor(-torch.inf)
            for _ in range(draws):
                trace = poutine.trace(guide).get_trace()
                logits = model.likelihood(poutine.replay(model.output, trace=trace)(x)).logits
                total = torch.logaddexp(total, logits)
        return total - math.log(draws)

    return log_probabilities


@torch.no_grad()
def mean_network(model: WeightModel, guide: MeanField | PointEstimate) -> nn.Module:
    """Return a plain copy of the network with the weights at their location, exactly 0 where they are pruned.

    W = c γ ∘ E[z]: z at its mean, the hyper-parameters of c at their medians.
    """
    net = copy.deepcopy(model.net)
    with poutine.block(), poutine.condition(data=guide.medians()):
        for layer, scale, z in model.draw():
            for name, value in layer.parameters(scale * z).items():
                net.get_parameter(name).copy_(value)
    return net
