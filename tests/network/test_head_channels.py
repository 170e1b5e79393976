"""Channels of attention heads as structures of a trained network: the same channels of all heads leave together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from bmrs_pyro import NoisyNetwork, compact, complexity, find_structures
from bmrs_pyro.network import cost_model
from tests.network.networks import relative_error

HEADS, WIDTH = 2, 12


class Attention(nn.Module):
    """Attention with one layer for queries, keys and values, or three, and a scale of torch's or of its own."""

    def __init__(self, *, fused: bool, scale: float | None, rotated: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale, self.rotated = HEADS, WIDTH // HEADS, scale, rotated
        sizes = [3 * WIDTH] if fused else [WIDTH] * 3
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, size) for size in sizes)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        made = torch.cat([layer(x) for layer in self.qkv], -1)
        q, k, v = made.view(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if self.rotated:
            q, k = (torch.cat([-one[..., 3:], one[..., :3]], -1) + one for one in (q, k))
        y = scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, -1))


class Block(nn.Module):
    """Words that attention mixes."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(5, WIDTH), Attention(**options)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(self.embed(x)))


def made(**options: Any) -> tuple[Block, Tensor]:
    torch.manual_seed(0)
    net = Block(**options).eval()
    for parameter in net.parameters():  # far from uniform attention
        parameter.data.normal_(std=0.7)
    return net, torch.randn(4, 7, 5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_removal_is_exact_with_any_gains(fused: bool, scale: float | None) -> None:
    net, x = made(fused=fused, scale=scale)
    network = NoisyNetwork(net, x, trained=True)
    (family,) = (family for family in network.structures if family.queries)
    assert (family.size, family.kind) == (WIDTH // HEADS, "head channels")
    assert family.label == f"attention.qkv.0, {WIDTH // HEADS} head channels"
    keep = {family.name: torch.tensor([True, False, True, True, False, True])}
    gain = torch.rand(6, dtype=torch.float64) + 0.5
    theta = {family.name: gain * keep[family.name]}
    with torch.no_grad():
        expected = network.double()(x.double(), theta)
        small: Any = compact(network, keep, {family.name: gain})
        assert relative_error(expected, small(x.double())) < 1e-12
        rows = {name: one.expand(2, -1).clone() for name, one in theta.items()}  # two examples share each
        assert relative_error(expected, network(x.double(), rows)) < 1e-12
    assert relative_error(expected, net(x.double())) > 0.01
    assert (small.attention.head_dim, small.attention.num_heads) == (4, HEADS)
    assert small.attention.proj.in_features == 4 * HEADS


@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_costs_count_queries_once(cost: str) -> None:
    net, x = made(fused=False, scale=None)
    network = NoisyNetwork(net, x[:1], trained=True)
    (heads,) = (family.name for family in network.structures if family.queries)
    sizes = {family.name: family.size for family in network.structures}
    for left in (6, 4, 1):
        small = compact(network, {heads: torch.arange(6) < left})
        expected = getattr(complexity(small, x[:1]), cost)
        assert cost_model(network, cost)({**sizes, heads: left}) == pytest.approx(expected)


def test_whole_heads_are_taken_where_their_channels_mix() -> None:
    net, x = made(fused=False, scale=None, rotated=True)
    structures = find_structures(net, x, trained=True)
    assert [
        (family.size, family.kind) for family in structures if family.layer.startswith("attention.qkv")
    ] == [(HEADS, "heads")]


def test_whole_heads_are_taken_without_a_trained_network() -> None:
    net, x = made(fused=True, scale=None)
    assert [family.size for family in find_structures(net, x) if "qkv" in family.layer] == [HEADS]


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("asked", [True, False])
def test_channels_of_torchs_own_attention(heads: int, asked: bool) -> None:
    class Torchs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
            self.attention = nn.MultiheadAttention(WIDTH, heads, dropout=0.3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(self.attention(x, x, x, need_weights=asked)[0])

    torch.manual_seed(0)
    net, x = Torchs().eval(), torch.randn(4, 7, 5)
    dense = net(x)
    network = NoisyNetwork(net, x, trained=True)
    torch.testing.assert_close(network(x), dense)
    (family,) = (family for family in network.structures if family.queries)
    assert family.size == WIDTH // heads
    keep = {family.name: torch.arange(family.size) % 3 > 0}
    small = compact(network, keep)
    with torch.no_grad():
        assert relative_error(network(x, {family.name: keep[family.name].float()}), small(x)) < 1e-5
        small.train()(x)  # with dropout


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("trained", [True, False])
def test_the_precision_of_the_weights_does_not_matter(dtype: torch.dtype, trained: bool) -> None:
    """In half precision, rounding hid which integers count heads or their channels."""
    net, x = made(fused=True, scale=None)
    found = find_structures(net, x, trained=trained)
    same = find_structures(net.to(dtype), x.to(dtype), trained=trained)
    assert [(one.name, one.size, one.kind) for one in same] == [
        (one.name, one.size, one.kind) for one in found
    ]
    assert {weight.dtype for weight in net.parameters()} == {dtype}
