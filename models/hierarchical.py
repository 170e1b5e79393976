"""A multilayer perceptron whose layers learn how many of their neurons are needed, as a Pyro program.

Neuron c of layer l passes s_l θ_lc · relu(a_lc) to the next layer. All gains of a layer share a scale and a rate of
inclusion, and both are learned:

    s_l ~ LogUniform(1/10, 10),    ρ_l ~ Beta(1, C_l) for C_l neurons,
    θ_lc ~ ρ_l LogUniform(e^-20, 1) + (1 − ρ_l) TruncatedLogNormal(−20, 4),

where the second part of the mixture keeps the gain of a neuron that is not needed near zero. The posterior is
mean-field: truncated log-normal gains and scales, Beta rates. If many neurons of a layer are not needed, ρ_l falls,
and every other neuron of that layer needs more evidence to stay: `prune` removes neurons with

    ΔF + E_q[log(1 − ρ_l)] − E_q[log ρ_l] > 0.

    net = NoisyNetwork(network((1, 8, 8), 10), torch.zeros(1, 1, 8, 8))
    svi = SVI(model, guide, Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    svi.step(x, y, net=net, num_data=1000)
    small = compact(net, prune(net), gains(net))

Sources: Wright, Igel and Selvan (NeurIPS 2024), who name hierarchical priors as future work; the rate of inclusion is
that of Marković, Friston and Kiebel (arXiv 2309.12095).
"""

from __future__ import annotations

__all__ = ["gains", "guide", "model", "network", "posterior", "prune"]

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.reduction import KeepMask, delta_f, spike

WIDTHS = (100, 50)
LOW, HIGH = math.exp(-20.0), 1.0
SCALES = 0.1, 10.0


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for inputs of any shape, which it flattens."""
    first, second = WIDTHS
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, num_classes),
    )


def model(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> Tensor:
    """s, ρ, θ as above, y | x, s, θ ~ Categorical(softmax(net(x, s θ))); one draw for the whole batch."""
    pyro.module("hierarchical", net)
    slab, off = LogUniform(LOW, HIGH), TruncatedLogNormal(math.log(LOW), 4.0, LOW, HIGH)
    theta = {}
    for layer in net.structures:
        scale = pyro.sample(f"{layer.name}.scale", LogUniform(*SCALES))
        rate = pyro.sample(f"{layer.name}.rate", dist.Beta(1.0, float(layer.size)))
        gain = pyro.sample(layer.name, slab.expand([layer.size]).to_event(1))
        # the mixture's density divided by that of the slab, which the site has already
        ratio = (off.log_prob(gain) - slab.log_prob(gain)).exp()
        pyro.factor(f"{layer.name}.inclusion", (rate + (1 - rate) * ratio).log().sum())
        theta[layer.name] = scale * gain
    logits = net(x, theta)
    with pyro.plate("data", num_data, subsample=torch.arange(len(x)), dim=-1):
        label: Tensor = pyro.sample("y", dist.Categorical(logits=logits), obs=y)
    return label


def guide(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> None:
    """Q = Π q(s_l) q(ρ_l) Π q(θ_lc), with its parameters in Pyro's parameter store."""
    for layer in net.structures:
        for part, distribution in posterior(layer.name, layer.size).items():
            event = distribution.to_event(1) if distribution.batch_shape else distribution
            pyro.sample(f"{layer.name}{part}", event)


def posterior(name: str, size: int) -> dict[str, dist.TorchDistribution]:
    """Return the posteriors of a layer's scale, rate and gains, by the endings of their sites' names."""
    loc = pyro.param(f"{name}.scale.loc", torch.zeros(()))
    width = pyro.param(f"{name}.scale.width", torch.tensor(0.05), constraint=constraints.positive)
    counts = pyro.param(f"{name}.rate.counts", torch.full((2,), size / 2), constraint=constraints.positive)
    gain = pyro.param(f"{name}.loc", torch.zeros(size))
    spread = pyro.param(
        f"{name}.spread", torch.full((size,), math.exp(-5.0)), constraint=constraints.positive
    )
    return {
        ".scale": TruncatedLogNormal(loc, width, *SCALES),
        ".rate": dist.Beta(counts[0], counts[1]),
        "": TruncatedLogNormal(gain, spread, LOW, HIGH),
    }


@torch.no_grad()
def prune(net: NoisyNetwork) -> KeepMask:
    """Decide which neurons stay, by their evidence and the rate of inclusion of their layer."""
    prior, scores = LogUniform(LOW, HIGH), {}
    for layer in net.structures:
        found = posterior(layer.name, layer.size)
        included, excluded = pyro.param(f"{layer.name}.rate.counts").digamma()
        scores[layer.name] = delta_f(found[""], prior, spike(prior)) + excluded - included
    return KeepMask.from_scores(scores, min_keep=1)


@torch.no_grad()
def gains(net: NoisyNetwork) -> dict[str, Tensor]:
    """Return E[s_l] E[θ_lc] of every neuron, ``(C_l,)`` by site name."""
    found = {layer.name: posterior(layer.name, layer.size) for layer in net.structures}
    return {name: parts[".scale"].mean * parts[""].mean for name, parts in found.items()}
