"""LeNet5 with random gains on its channels and neurons, as a Pyro program.

Every channel or neuron c of layer l has a multiplicative gain θ_lc with a log-uniform prior on [e^-20, 1]. Its
posterior is a truncated log-normal, and the evidence lower bound is

    E_q[Σ_i log p(y_i | x_i, θ_i)] − Σ_lc KL(q(θ_lc) ‖ p(θ_lc)),

estimated with one θ draw per example. Train with any ELBO and optimiser of Pyro:

    net = NoisyNetwork(network((1, 32, 32), 10), torch.zeros(1, 1, 32, 32))
    svi = SVI(model, guide, Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    svi.step(x, y, net=net, num_data=60_000)

Sources: LeCun et al. (1998), with ReLU and max-pooling; Neklyudov et al. (NIPS 2017); Wright, Igel and Selvan
(NeurIPS 2024), whose network has 6c-16c-120c-84c units for c input channels.
"""

from __future__ import annotations

__all__ = ["guide", "input_size", "model", "network"]

import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.network import NoisyNetwork

input_size = 32  # images of another size are resized to 32 × 32

LOW, HIGH = math.exp(-20.0), 1.0


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for images of shape ``(c, 32, 32)``."""
    c = input_shape[0]
    return nn.Sequential(
        nn.Conv2d(c, 6 * c, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6 * c, 16 * c, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * c * 25, 120 * c),
        nn.ReLU(),
        nn.Linear(120 * c, 84 * c),
        nn.ReLU(),
        nn.Linear(84 * c, num_classes),
    )


def model(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> Tensor:
    """θ ~ LogUniform, y | x, θ ~ Categorical(softmax(net(x, θ)))."""
    pyro.module("lenet5", net)
    theta = {}
    # one draw per example: the plate repeats every gain, and the scale makes its KL count once
    with pyro.plate("draws", len(x), dim=-1), poutine.scale(scale=1 / len(x)):
        for layer in net.structures:
            prior = LogUniform(LOW, HIGH).expand([layer.size])
            theta[layer.name] = pyro.sample(layer.name, prior.to_event(1))
    logits = net(x, theta)
    with pyro.plate("data", num_data, subsample=torch.arange(len(x)), dim=-1):
        label: Tensor = pyro.sample("y", dist.Categorical(logits=logits), obs=y)
    return label


def guide(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> None:
    """q(θ) = Π TruncatedLogNormal(loc, scale), with its parameters in Pyro's parameter store."""
    with pyro.plate("draws", len(x), dim=-1), poutine.scale(scale=1 / len(x)):
        for layer in net.structures:
            loc = pyro.param(f"{layer.name}.loc", torch.zeros(layer.size))
            scale = pyro.param(
                f"{layer.name}.scale",
                torch.full((layer.size,), math.exp(-5.0)),
                constraint=constraints.positive,
            )
            pyro.sample(layer.name, TruncatedLogNormal(loc, scale, LOW, HIGH).to_event(1))
