"""Networks made to deceive: which of their structures are offered for removal, and which offers are wrong."""

from __future__ import annotations

__all__ = ["KINDS", "measured"]

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bmrs_pyro.network import NoisyNetwork, compact, find_structures

_MASKS = 24
_WRONG = 1e-6


def _scaled(h: Tensor, start: int, stop: int | None, factor: float = -0.5, step: int = 1) -> Tensor:
    h = h.clone()
    h[:, start:stop:step] *= factor
    return h


def _half_rolled(h: Tensor) -> Tensor:
    half = h.shape[1] // 2
    return torch.cat([h[:, :half].roll(1, 1), h[:, half:]], 1)


def _by_channel(h: Tensor, factors: Tensor) -> Tensor:
    return h * factors.to(h).reshape(-1, *(1,) * (h.dim() - 2))


_TABLE = torch.linspace(0.5, 2, 64)

_BY_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "half of the channels scaled": lambda h: _scaled(h, 0, h.shape[1] // 2),
    "second quarter scaled": lambda h: _scaled(h, h.shape[1] // 4, h.shape[1] // 2),
    "every other channel negated": lambda h: _scaled(h, 0, None, -1.0, 2),
    "first channel scaled": lambda h: _scaled(h, 0, 1),
    "third channel scaled": lambda h: _scaled(h, 2, 3),
    "last channel scaled": lambda h: _scaled(h, h.shape[1] - 1, None),
    "all from the fifth on scaled": lambda h: _scaled(h, 4, None),
    "half of the channels rolled": _half_rolled,
    "rolled": lambda h: h.roll(1, 1),
    "flipped": lambda h: h.flip(1),
    "halves swapped": lambda h: torch.cat(h.chunk(2, 1)[::-1], 1),
    "summed along the channels": lambda h: h.cumsum(1),
    "mixed with the next channel": lambda h: h + 0.5 * h.roll(1, 1),
    "averaged in pairs": lambda h: h.unflatten(1, (-1, 2)).mean(2).repeat_interleave(2, 1),
    "shuffled in two groups": lambda h: h.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    "scaled by a ramp": lambda h: _by_channel(h, torch.linspace(0.5, 2, h.shape[1], dtype=h.dtype)),
    "scaled by a table": lambda h: _by_channel(h, _TABLE[: h.shape[1]]),
    "divided by the width": lambda h: h / h.shape[1],
    "gated by a slice": lambda h: h * h[:, : h.shape[1] // 2].mean(1, keepdim=True).sigmoid(),
    "softmax over the channels": lambda h: h.softmax(1),
}


class _Treated(nn.Module):
    """A layer whose channels get a treatment, between other layers; for images or vectors."""

    def __init__(self, channels: int, treatment: Callable[[Tensor], Tensor], images: bool) -> None:
        super().__init__()
        layer: Any = (lambda i, o: nn.Conv2d(i, o, 3, padding=1)) if images else nn.Linear
        self.stem, self.treated, self.reader = layer(3, 5), layer(5, channels), layer(channels, 6)
        self.last = nn.Linear(6, 4)
        self.treatment = treatment

    def forward(self, x: Tensor) -> Tensor:
        h = self.reader(self.treatment(self.treated(self.stem(x).relu()).relu())).relu()
        return self.last(h.mean((2, 3)) if h.dim() == 4 else h)


class _TwoReaders(nn.Module):
    """Each half of the channels has its own reader; the outputs of the readers are added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.first, self.low, self.high = nn.Linear(3, 2 * half), nn.Linear(half, 6), nn.Linear(half, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.first(x).relu().chunk(2, 1)
        return self.last((self.low(v) + self.high(u)).relu())


class _Silent(nn.Module):
    """A few units that are often silent, after channels treated by their place."""

    def __init__(self, channels: int, treatment: Callable[[Tensor], Tensor], last_bias: float = 0.0) -> None:
        super().__init__()
        self.first, self.narrow, self.last = nn.Linear(3, channels), nn.Linear(channels, 2), nn.Linear(2, 4)
        self.treatment = treatment
        nn.init.constant_(self.narrow.bias, last_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.narrow(self.treatment(self.first(x).relu())).relu())


class _Attention(nn.Module):
    """Attention whose number of heads cannot be inferred; the example is one token, repeated."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.count, width = heads, 4 * heads
        self.words, self.norm = nn.Embedding(11, width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow, self.last = nn.Linear(width, 10), nn.Linear(10, width), nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        h = self.norm(x)
        q, k, v = (
            layer(h).unflatten(-1, (self.count, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        h = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(h.transpose(1, 2).flatten(2))
        return self.last(x + self.narrow(functional.gelu(self.wide(x))))


class _Heads(nn.Module):
    """Attention whose heads can be removed."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.num_heads, width = heads, 4 * heads
        self.query, self.key, self.value = (nn.Linear(6, width) for _ in range(3))
        self.projection, self.last = nn.Linear(width, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in layers)
        h = functional.scaled_dot_product_attention(q, k, v)
        return self.last(x + self.projection(h.transpose(1, 2).flatten(2)))


class _Gated(nn.Module):
    """Channel i of one half multiplies channel i of the other: both are removed together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 2 * channels, 3), nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.first(x).chunk(2, 1)
        return self.last((value * gate.sigmoid()).mean((2, 3)))


class _Residual(nn.Module):
    """A residual stream, and a depthwise convolution in its branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(channels, 12, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1, groups=12),
            nn.Hardswish(), nn.Conv2d(12, channels, 1), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.last = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last((x + self.branch(x)).relu().mean((2, 3)))


def _mlp(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, channels), nn.ReLU(), nn.Linear(channels, 7), nn.Tanh(), nn.Linear(7, 4)
    )


def _words(channels: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(11, channels), nn.Linear(channels, 7), nn.ReLU(), nn.Linear(7, 4))


IMAGE, VECTOR, TOKENS, IDS = (1, 3, 8, 8), (1, 3), (1, 5, 6), (1, 16)
Kind = tuple[str, tuple[int, ...], Callable[[int], nn.Module]]

KINDS: dict[str, Kind] = {
    **{
        f"{name}, {what}": ("by place", shape, partial(_Treated, treatment=treatment, images=shape is IMAGE))
        for name, treatment in _BY_PLACE.items()
        for what, shape in (("images", IMAGE), ("vectors", VECTOR))
    },
    "two readers of the halves, added": ("by place", VECTOR, _TwoReaders),
    "softmax, then two units": ("silent", VECTOR, lambda n: _Silent(n, lambda h: h.softmax(1))),
    "half scaled, then two units": ("silent", VECTOR, lambda n: _Silent(n, _BY_PLACE["half of the channels scaled"])),
    "half scaled, then dead units": (
        "silent", VECTOR, lambda n: _Silent(n, _BY_PLACE["half of the channels scaled"], -100.0),
    ),
    "attention over one token, repeated": ("silent", IDS, lambda n: _Attention(max(n // 8, 2))),
    "attention over a single token": ("silent", (1, 1), lambda n: _Attention(max(n // 8, 2))),
    "perceptron": ("plain", VECTOR, _mlp),
    "residual stream": ("plain", IMAGE, _Residual),
    "gated halves": ("plain", IMAGE, _Gated),
    "attention heads": ("plain", TOKENS, lambda n: _Heads(max(n // 8, 2))),
    "words": ("plain", IDS, _words),
}  # fmt: skip
"""By name: the group of the kind, the shape of the example inputs, and a function from a width to a network."""


def measured(kind: str, number: int) -> dict[str, int]:
    """Look for structures in one random network and try every offer with many masks.

    Returns:
        How many families are offered, and how many offers are wrong: for some mask, weights and inputs the outputs
        change by more than 10⁻⁶ of the largest when structures of gain 0 are cut out, or the network fails.
    """
    _, shape, build = KINDS[kind]
    torch.manual_seed(number)
    net = build(2 * int(torch.randint(2, 13, ()))).eval()
    words = any(isinstance(module, nn.Embedding) for module in net.modules())
    example = torch.zeros(shape, dtype=torch.long) if words else torch.zeros(shape)
    offered = find_structures(net, example)
    batch = (8, 6, *shape[2:]) if words else (8, *shape[1:])
    wrong = 0
    for family in offered:
        network = NoisyNetwork(copy.deepcopy(net).double(), example, structures=[family])
        wrong += any(
            _differs(
                network,
                family.name,
                family.size,
                torch.randint(11, batch) if words else torch.randn(batch).double(),
            )
            for _ in range(_MASKS)
        )
    return {"offered": len(offered), "wrong": wrong}


@torch.no_grad()
def _differs(network: NoisyNetwork, family: str, size: int, x: Tensor) -> bool:
    """Say whether the small network differs from the one with gains, for a random mask and random weights."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and tensor.dim() > 1:
            tensor.normal_(0, (tensor.numel() / tensor.shape[0]) ** -0.5)
        elif tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    keep = torch.rand(size) < torch.rand(())
    keep[torch.randint(size, ())] = True
    gains = torch.rand(size, dtype=torch.float64) + 0.5
    expected = network(x, {family: gains * keep})
    try:
        error = (compact(network, {family: keep}, {family: gains})(x) - expected).abs().max()
    except Exception:
        return True
    return not bool(error <= _WRONG * expected.abs().max())
