"""A small GPT-like model of the next token, with random gains on its attention heads and neurons, as a Pyro program.

Tokens and positions are embedded, and each of two blocks computes

    x ← x + proj(concat_h softmax(q_h k_hᵀ / √d) v_h),    x ← x + W₂ gelu(W₁ x),

each applied to a layer norm of x. No token attends to a later one. The logits at position t predict token t + 1, so y
is x in training. θ_h multiplies head h at the input of the projection, and θ_c neuron c of W₁ at the input of W₂:

    net = NoisyNetwork(network((64,), 97), torch.zeros(1, 64, dtype=torch.int64))
    svi = SVI(model, guide, Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    svi.step(x, x, net=net, num_data=10_000)

Source: Radford, Wu, Child, Luan, Amodei and Sutskever (2019).
"""

from __future__ import annotations

__all__ = ["guide", "model", "network"]

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from bmrs_pyro.inference import posterior_gains, prior_gains
from bmrs_pyro.network import NoisyNetwork

WIDTH, DEPTH, HEADS = 64, 2, 4


class Block(nn.Module):
    """Attention to earlier tokens, then a perceptron; each reads the normalised stream and is added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS  # counts the heads that are left
        self.query, self.key, self.value, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map a stream ``(B, T, width)`` to a stream of the same shape."""
        a = self.norm1(x)
        q, k, v = (
            layer(a).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        heads = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(heads.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class NextToken(nn.Module):
    """Embeddings of tokens and positions, blocks, and a linear layer that reads every token."""

    def __init__(self, length: int, vocabulary: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, WIDTH), nn.Embedding(length, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(B, T)`` to logits ``(B, T, vocabulary)`` of the tokens after them."""
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for up to T tokens, shape ``(T,)``, numbered below ``num_classes``."""
    return NextToken(input_shape[0], num_classes)


def model(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> Tensor:
    """θ ~ LogUniform, x_{t+1} | x_1 … x_t, θ ~ Categorical(softmax(net(x, θ)_t))."""
    pyro.module("next_token", net)
    logits = net(x, prior_gains(net, len(x)))
    with pyro.plate("data", num_data, subsample=torch.arange(len(x)), dim=-1):
        following = dist.Categorical(logits=logits[:, :-1]).to_event(1)
        token: Tensor = pyro.sample("y", following, obs=None if y is None else y[:, 1:])
    return token


def guide(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> None:
    """q(θ) = Π TruncatedLogNormal(loc, scale), with its parameters in Pyro's parameter store."""
    posterior_gains(net, len(x))
