"""A small BERT-like classifier of texts, with random gains on its attention heads and neurons, as a Pyro program.

A text is a row of T word numbers, padded with 0. Words and positions are embedded, and each of two blocks computes

    x ← norm(x + proj(concat_h softmax(q_h k_hᵀ / √d) v_h)),    x ← norm(x + W₂ gelu(W₁ x)),

where no word attends to the padding. A linear layer classifies the mean over the words. θ_h multiplies head h at the
input of the projection, and θ_c neuron c of W₁ at the input of W₂. Channels of the residual stream cannot be removed,
because layer norms mix them. Train with any ELBO and optimiser of Pyro:

    net = NoisyNetwork(network((64,), 6), torch.ones(1, 64, dtype=torch.int64))
    svi = SVI(model, guide, Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    svi.step(x, y, net=net, num_data=10_000)

Source: Devlin, Chang, Lee and Toutanova (NAACL 2019), without their pre-training.
"""

from __future__ import annotations

__all__ = ["VOCABULARY", "guide", "model", "network"]

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from bmrs_pyro.inference import posterior_gains, prior_gains
from bmrs_pyro.network import NoisyNetwork

VOCABULARY, WIDTH, DEPTH, HEADS = 2000, 64, 2, 4


class Block(nn.Module):
    """Attention, then a perceptron; each is added to the stream, which is then normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS  # counts the heads that are left
        self.query, self.key, self.value, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """Map a stream ``(B, T, width)`` to one of the same shape; ``words`` ``(B, T)`` is False for padding."""
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        heads = scaled_dot_product_attention(q, k, v, words[:, None, None])
        x = self.norm1(x + self.proj(heads.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.mlp(x))


class TextClassifier(nn.Module):
    """Embeddings of words and positions, blocks, and a linear layer that reads the mean over the words."""

    def __init__(self, length: int, num_classes: int) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(length, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map texts ``(B, T)`` to logits ``(B, num_classes)``."""
        words = tokens > 0
        x = self.norm(self.word(tokens) + self.place.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x, words)
        counted = words.unsqueeze(-1).to(x.dtype)
        return self.head((x * counted).sum(1) / counted.sum(1).clamp(min=1))


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for texts of shape ``(T,)``, words numbered below ``VOCABULARY``."""
    return TextClassifier(input_shape[0], num_classes)


def model(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> Tensor:
    """θ ~ LogUniform, y | x, θ ~ Categorical(softmax(net(x, θ)))."""
    pyro.module("text_classifier", net)
    logits = net(x, prior_gains(net, len(x)))
    with pyro.plate("data", num_data, subsample=torch.arange(len(x)), dim=-1):
        label: Tensor = pyro.sample("y", dist.Categorical(logits=logits), obs=y)
    return label


def guide(x: Tensor, y: Tensor | None = None, *, net: NoisyNetwork, num_data: int) -> None:
    """q(θ) = Π TruncatedLogNormal(loc, scale), with its parameters in Pyro's parameter store."""
    posterior_gains(net, len(x))
