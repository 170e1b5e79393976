"""An MLP-Mixer with a Gaussian posterior for every weight, as a Pyro program.

Patches of 4 × 4 pixels are embedded, and each block mixes tokens, then channels:

    X ← X + (W₂ gelu(W₁ norm(X)ᵀ))ᵀ,    X ← X + W₄ gelu(W₃ norm(X)).

A linear layer reads the mean over the tokens. Weights and biases are W = 0.1 z with z ~ N(0, 1) elementwise, without
the 0.1 in the last layer; layer norms are deterministic. The posterior is mean-field, z ~ N(μ, σ²). Model reduction
prunes weights that the data do not need: the evidence for removing weight i is
ΔF_i = log E_q[N(z_i; 0, γ²) / N(z_i; 0, 1)] for γ → 0, and a mask of ones and zeros then multiplies the weights:

    net = network((1, 28, 28), 10)
    svi = SVI(model, guide, Adam({"lr": 5e-3}), TraceMeanField_ELBO())
    svi.step(x, y, net=net, num_data=60_000, masks={})
    masks = prune(net)

Hidden neurons of both perceptrons are structures; channels of the residual stream are not: layer norms mix them.

Sources: Tolstikhin et al. (NeurIPS 2021), section 2; Marković, Friston and Kiebel (arXiv 2309.12095), who prune Mixers.
"""

from __future__ import annotations

__all__ = ["Block", "MlpMixer", "guide", "model", "network", "prune"]

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from bmrs_pyro.reduction import delta_f
from bmrs_pyro.weights import inclusion_threshold

WIDTH, DEPTH, PATCH = 128, 4, 4
Masks = Mapping[str, Tensor]


class Block(nn.Module):
    """A perceptron over the tokens, then one over the channels; each reads the normalised stream and is added to it."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(B, N, width)`` to tokens ``(B, N, width)``."""
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MlpMixer(nn.Module):
    """Patches to tokens, blocks, and a linear layer that reads their mean."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        channels, height, breadth = input_shape
        tokens = (height // PATCH) * (breadth // PATCH)
        self.embed = nn.Conv2d(channels, width, PATCH, PATCH)
        self.blocks = nn.Sequential(*(Block(tokens, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(B, c, H, W)`` to logits ``(B, num_classes)``."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def network(
    input_shape: tuple[int, ...], num_classes: int, width: int = WIDTH, depth: int = DEPTH
) -> nn.Module:
    """Return the deterministic network for images of shape ``(c, H, W)``, H and W multiples of 4."""
    return MlpMixer(input_shape, num_classes, width, depth)


def weights(net: nn.Module) -> dict[str, tuple[torch.Size, float]]:
    """Return shape and scale of the random parameters, by name."""
    found = {name: tensor.shape for name, tensor in net.named_parameters() if "norm" not in name}
    return {name: (shape, 1.0 if name.startswith("head") else 0.1) for name, shape in found.items()}


def model(x: Tensor, y: Tensor | None = None, *, net: nn.Module, num_data: int, masks: Masks) -> Tensor:
    """W = c z, y | x, W ~ Categorical(softmax(net(x; W))); one draw of the weights for the whole batch."""
    pyro.module("norms", nn.ModuleList(layer for layer in net.modules() if isinstance(layer, nn.LayerNorm)))
    drawn = {}
    for name, (shape, scale) in weights(net).items():
        z = pyro.sample(f"weights.{name}", dist.Normal(0.0, 1.0).expand(shape).to_event())
        drawn[name] = scale * z * masks.get(name, 1.0)
    logits = functional_call(net, drawn, (x,))
    with pyro.plate("data", num_data, subsample=torch.arange(len(x)), dim=-1):
        label: Tensor = pyro.sample("y", dist.Categorical(logits=logits), obs=y)
    return label


def guide(x: Tensor, y: Tensor | None = None, *, net: nn.Module, num_data: int, masks: Masks) -> None:
    """Sample from q = Π N(μ, σ²), with its parameters in Pyro's parameter store."""
    for name, (shape, _) in weights(net).items():
        loc = pyro.param(f"weights.{name}.loc", 4.0 * torch.rand(shape) - 2.0)
        scale = pyro.param(f"weights.{name}.scale", torch.full(shape, 0.1), constraint=constraints.positive)
        pyro.sample(f"weights.{name}", dist.Normal(loc, scale).to_event())


def prune(net: nn.Module) -> dict[str, Tensor]:
    """Return masks by name: 1 for weights that the data need, 0 for others; the last layer is not pruned."""
    masks = {}
    for name in weights(net):
        if not name.startswith("head"):
            loc, scale = (pyro.param(f"weights.{name}.{part}").detach() for part in ("loc", "scale"))
            change = delta_f(dist.Normal(loc, scale), dist.Normal(0.0, 1.0), dist.Normal(0.0, 1e-8))
            masks[name] = (change <= inclusion_threshold(change)).float()
    return masks
