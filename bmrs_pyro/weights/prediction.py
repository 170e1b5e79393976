"""Predictions: averaged over draws of the weights, or by one plain network at their mean."""

from __future__ import annotations

__all__ = ["mean_network", "predictive"]

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from bmrs_pyro.inference import mixture
from bmrs_pyro.inference.draws import refuse_no_draws
from bmrs_pyro.metrics import evaluation_mode
from bmrs_pyro.metrics.scoring import Predictor
from bmrs_pyro.network.untouched import deep_copy
from bmrs_pyro.weights.guide import MeanField, PointEstimate, refuse_other_guide
from bmrs_pyro.weights.model import WeightModel


def predictive(model: WeightModel, guide: nn.Module, draws: int = 100) -> Callable[[Tensor], Any]:
    """Return a function from inputs to a prediction averaged over S draws of the weights, redrawn in every call.

    It returns log (1/S) Σ_s p(y | x, W_s), usable as logits, if every example has one class. Otherwise it returns a
    distribution: for classes one with the mean probabilities, for values the mixture over the draws. The network runs
    in evaluation mode. :func:`evaluate` does not apply its own likelihood to the prediction again.

    Args:
        model: the model.
        guide: its guide.
        draws: S.

    Raises:
        TypeError: the model is no WeightModel, or the guide no module.
        ValueError: fewer than one draw, or the guide is another model's.
    """
    refuse_no_draws(draws)
    if not isinstance(model, WeightModel):
        raise TypeError(f"model is a {type(model).__name__}; give a WeightModel, then its guide")
    refuse_other_guide(model.layers, guide)

    def drawn(x: Tensor) -> Iterator[TorchDistribution]:
        for _ in range(draws):
            trace = poutine.trace(guide).get_trace()
            yield model.likelihood(poutine.replay(model.output, trace=trace)(x))

    def averaged(x: Tensor) -> TorchDistribution:
        # a separate parameter store: names in the global one may belong to another guide
        with evaluation_mode(model), poutine.block(), pyro.get_param_store().scope():
            return mixture(drawn(x))

    return Predictor(averaged)


@torch.no_grad()
def mean_network(model: WeightModel, guide: MeanField | PointEstimate | AutoGuide) -> nn.Module:
    """Return a plain copy of the network in evaluation mode, with its weights at their location, 0 where pruned.

    W = c γ ∘ E[z]: z at its mean, the hyper-parameters of c at their medians. Of one of Pyro's own guides all
    variables are at their medians.

    Raises:
        TypeError: the guide has no medians.
        ValueError: the guide is another model's.
    """
    refuse_other_guide(model.layers, guide)
    if isinstance(guide, MeanField | PointEstimate):
        medians = guide.medians()
    elif isinstance(guide, AutoGuide):
        medians = guide.median()
    else:
        raise TypeError(
            f"guide is a {type(guide).__name__}, which has no medians; give a MeanField(model.draw)"
        )
    if any(layer.name not in medians or medians[layer.name].shape != layer.shape for layer in model.layers):
        raise ValueError(f"the guide is another model's: its sites are {', '.join(medians)}")
    net = deep_copy(model.net)
    with poutine.block(), poutine.condition(data=medians):
        for layer, scale, z in model.draw():
            for name, value in layer.parameters(scale * z).items():
                net.get_parameter(name).copy_(value)
    return net.eval()
