"""A multilayer perceptron with a random gain on every hidden neuron, as a Pyro program.

Neuron c of hidden layer l passes θ_lc · tanh(a_lc) to the next layer. θ_lc has a log-uniform prior on [e^-20, 1] and
a truncated log-normal posterior; where the data do not need the neuron, its posterior stays as wide as the prior,
and Bayesian model reduction finds that the evidence does not fall when the prior shrinks to zero:

    net = NoisyNetwork(network((1, 28, 28), 10), torch.zeros(1, 1, 28, 28))
    svi = SVI(model, guide, Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    svi.step(x, y, net=net, num_data=60_000)
    gains = posteriors(guide, x, net=net, num_data=60_000)
    small = compact(net, select(gains, LogUniform(LOW, HIGH), bmrs_n()), {name: q.mean for name, q in gains.items()})

Source: Wright, Igel and Selvan (NeurIPS 2024), whose MLP has six hidden layers.
"""

from __future__ import annotations

__all__ = ["guide", "model", "network"]

import itertools
import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.network import NoisyNetwork

WIDTH, DEPTH = 256, 6
LOW, HIGH = math.exp(-20.0), 1.0


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for inputs of any shape, which it flattens."""
    widths = [math.prod(input_shape)] + [WIDTH] * DEPTH
    hidden = [
        module
        for fan_in, width in itertools.pairwise(widths)
        for module in (nn.Linear(fan_in, width), nn.Tanh())
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(WIDTH, num_classes))


def model(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> Tensor:
    """θ ~ LogUniform, y | x, θ ~ Categorical(softmax(net(x, θ))); one θ for the whole batch."""
    pyro.module("mlp", net)
    theta = {
        layer.name: pyro.sample(layer.name, LogUniform(LOW, HIGH).expand([layer.size]).to_event(1))
        for layer in net.structures
    }
    logits = net(x, theta)
    with pyro.plate("data", num_data, subsample=torch.arange(len(x)), dim=-1):
        label: Tensor = pyro.sample("y", dist.Categorical(logits=logits), obs=y)
    return label


def guide(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> None:
    """q(θ) = Π TruncatedLogNormal(loc, scale), with its parameters in Pyro's parameter store."""
    for layer in net.structures:
        loc = pyro.param(f"{layer.name}.loc", torch.zeros(layer.size))
        scale = pyro.param(
            f"{layer.name}.scale",
            torch.full((layer.size,), math.exp(-5.0)),
            constraint=constraints.positive,
        )
        pyro.sample(layer.name, TruncatedLogNormal(loc, scale, LOW, HIGH).to_event(1))
