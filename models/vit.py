"""A small vision transformer whose attention heads and hidden neurons have random gains.

Patches of 4 × 4 pixels are embedded, a class token and learned positions are added, and each of six blocks computes

    x ← x + proj(concat_h softmax(q_h k_hᵀ / √d) v_h),    x ← x + W₂ gelu(W₁ x),

each applied to a layer norm of x. Query, key, value and projection are separate layers. A head h, the same slice of all
four, is one structure: θ_h multiplies the head's output at the input of the projection, and a head of gain 0 is removed
from all four. Neurons of W₁ are structures too. Channels of the residual stream are not, because layer norms mix them
(``NoisyNetwork(net, x, trained=True)`` offers them, and channels of heads, for the reduction of a trained network):

    net = NoisyNetwork(network((3, 32, 32), 10), torch.zeros(2, 3, 32, 32))
    model = SupervisedModel(net, lambda logits: dist.Categorical(logits=logits), num_data=50_000)
    history = fit(model, AutoTruncatedLogNormal(model), loader, criterion=bmrs_n())

Source: Dosovitskiy et al. (ICLR 2021), section 3.1.
"""

from __future__ import annotations

__all__ = ["Attention", "Block", "VisionTransformer", "input_size", "network"]

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

input_size = 32

WIDTH, DEPTH, HEAD_WIDTH, PATCH = 192, 6, 32, 4


class Attention(nn.Module):
    """Multi-head self-attention with four separate linear layers."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads  # counts the heads that are left
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(B, N, width)`` to tokens ``(B, N, width)``."""
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        heads = scaled_dot_product_attention(q, k, v)
        return self.proj(heads.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a perceptron; each reads the normalised stream and is added to it."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(B, N, width)`` to tokens ``(B, N, width)``."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches to tokens, blocks, and a linear layer that reads the class token."""

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, width: int = WIDTH, depth: int = DEPTH
    ) -> None:
        super().__init__()
        channels, height, breadth = input_shape
        patches = (height // PATCH) * (breadth // PATCH)
        self.embed = nn.Conv2d(channels, width, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + patches, width))
        self.blocks = nn.Sequential(*(Block(width, width // HEAD_WIDTH) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(B, c, H, W)`` to logits ``(B, num_classes)``."""
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def network(
    input_shape: tuple[int, ...], num_classes: int, width: int = WIDTH, depth: int = DEPTH
) -> nn.Module:
    """Return the deterministic network for images ``(c, H, W)``, H and W multiples of 4; heads are 32 wide."""
    return VisionTransformer(input_shape, num_classes, width, depth)
