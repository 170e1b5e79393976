"""A multi-layer perceptron with a Gaussian posterior for every weight, as a Pyro program.

Layer l multiplies its input, and a 1 for the bias, by W_l = c_l z_l with z_l ~ N(0, 1) elementwise and a learned scale
c_l = κ_l/√u_l, u_l ~ Gamma(2, 2), where κ_l is 0.1, and 1 in the last layer. The posterior is mean-field, with
z_l ~ N(μ, σ²) and log u_l ~ N(m, s²).

Bayesian model reduction prunes weights that the data do not need, with no further pass over the data. The evidence for
removing weight i is ΔF_i = log E_q[N(z_i; 0, γ²) / N(z_i; 0, 1)] for γ → 0. The rate of inclusion, which has a
Beta(1, 1) prior, decides how much evidence is needed. A mask of ones and zeros then multiplies the weights:

    net = network((1, 28, 28), 10)
    svi = SVI(model, guide, Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    svi.step(x, y, net=net, num_data=60_000, masks={})
    masks = prune(net)
    svi.step(x, y, net=net, num_data=60_000, masks=masks)

Source: Marković, Friston and Kiebel (arXiv 2309.12095), whose MLP has four hidden layers of 500 units and swish.
"""

from __future__ import annotations

__all__ = ["guide", "model", "network", "prune"]

import math
from collections.abc import Mapping
from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from bmrs_pyro.reduction import delta_f
from bmrs_pyro.weights import inclusion_threshold

WIDTH, DEPTH = 500, 4
Masks = Mapping[str, Tensor]


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Return the deterministic network for inputs of any shape, which it flattens."""
    widths = [math.prod(input_shape)] + [WIDTH] * DEPTH
    hidden = [
        module for fan_in, width in pairwise(widths) for module in (nn.Linear(fan_in, width), nn.SiLU())
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(WIDTH, num_classes))


def layers(net: nn.Sequential) -> dict[str, tuple[int, int]]:
    """Rows and columns of every layer's matrix, the bias as last column, by site name."""
    linear = {
        f"weights.{name}": layer for name, layer in net.named_children() if isinstance(layer, nn.Linear)
    }
    return {name: (layer.out_features, layer.in_features + 1) for name, layer in linear.items()}


def model(x: Tensor, y: Tensor | None = None, *, net: nn.Sequential, num_data: int, masks: Masks) -> Tensor:
    """W = c z, y | x, W ~ Categorical(softmax(net(x; W))); one draw of the weights for the whole batch."""
    a, shapes = x.flatten(1), layers(net)
    last = list(shapes)[-1]
    for name, shape in shapes.items():
        u = pyro.sample(f"{name}.precision", dist.Gamma(2.0, 2.0))
        z = pyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(2))
        w = (1.0 if name == last else 0.1) / u.sqrt() * z * masks.get(name, 1.0)
        a = nn.functional.linear(a, w[:, :-1], w[:, -1])
        a = a if name == last else nn.functional.silu(a)
    with pyro.plate("data", num_data, subsample=torch.arange(len(x)), dim=-1):
        label: Tensor = pyro.sample("y", dist.Categorical(logits=a), obs=y)
    return label


def guide(x: Tensor, y: Tensor | None = None, *, net: nn.Sequential, num_data: int, masks: Masks) -> None:
    """Sample from q = Π N(μ, σ²) Π LogNormal(m, s²), with its parameters in Pyro's parameter store."""
    for name, shape in layers(net).items():
        m = pyro.param(f"{name}.precision.loc", torch.zeros(()))
        s = pyro.param(f"{name}.precision.scale", torch.full((), 0.1), constraint=constraints.positive)
        pyro.sample(f"{name}.precision", dist.LogNormal(m, s))
        loc = pyro.param(f"{name}.loc", 4.0 * torch.rand(shape) - 2.0)
        scale = pyro.param(f"{name}.scale", torch.full(shape, 0.1), constraint=constraints.positive)
        pyro.sample(name, dist.Normal(loc, scale).to_event(2))


def prune(net: nn.Sequential) -> dict[str, Tensor]:
    """Return masks by layer: 1 for weights that the data need, 0 for others; the last layer is not pruned."""
    masks = {}
    for name in list(layers(net))[:-1]:
        posterior = dist.Normal(pyro.param(f"{name}.loc").detach(), pyro.param(f"{name}.scale").detach())
        change = delta_f(posterior, dist.Normal(0.0, 1.0), dist.Normal(0.0, 1e-8))
        masks[name] = (change <= inclusion_threshold(change)).float()
    return masks
