"""Parts of a split lose channels of their own where a module counts them, and the same channels elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bmrs_pyro as bp
from bmrs_pyro.network import NoisyNetwork, compact, find_structures
from tests.network.test_heads import removal_error, sizes


class GatedConvolution(nn.Module):
    """The block of MambaOut: a convolution treats a part of the gated channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 24), nn.Linear(12, 3)
        self.split_indices = (12, 8, 4)
        self.convolution = nn.Conv1d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        sizes: Any = self.split_indices
        gate, whole, part = torch.split(self.first(x), sizes, dim=-1)
        part = self.convolution(part.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.last(gate.sigmoid() * torch.cat([whole, part], -1))
        return out


def test_the_sizes_of_uneven_parts_follow(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(GatedConvolution(), torch.randn(2, 7, 5))
    assert sizes(network.structures) == {"first": 8, "first:2": 4}
    for seed in range(3):
        assert removal_error(network, torch.randn(3, 9, 5), seed=seed) < 1e-5
    keep = {"theta.first": torch.arange(8) > 2, "theta.first:2": torch.tensor([False, True, False, False])}
    small: Any = compact(network, keep)
    assert small.split_indices == (6, 5, 1)
    assert small.convolution.groups == 1
    bp.save(small, tmp_path / "small.safetensors")
    again: Any = bp.load(tmp_path / "small.safetensors", GatedConvolution())
    x = torch.randn(4, 5, 5)
    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)
    assert again.split_indices == (6, 5, 1)


class Partial(nn.Module):
    """One part goes through more layers, and all are joined: as in FasterNet, C2f and Res2Net."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.front, self.back = how, 4, 8 if how == "uneven" else 4
        self.first, self.last = nn.Linear(5, 12 if how in ("uneven", "pieces") else 8), nn.Linear(12, 3)
        self.middle = nn.Linear(4, 4)
        if how in ("chunk", "equal"):
            self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).tanh()
        match self.how:
            case "uneven":
                parts = y.split([self.front, self.back], -1)
            case "equal":
                parts = torch.split(y, [self.front, self.front], dim=-1)
            case "pieces":
                parts = y.split(self.front, -1)
            case _:
                parts = y.chunk(2, -1)
        out: Tensor = self.last(torch.cat([self.middle(parts[0]).tanh(), *parts[1:]], -1))
        return out


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("uneven", {"first": 4, "first:2": 8, "middle": 4}),
        ("equal", {"first": 4, "middle": 4}),
        ("pieces", {"first": 4, "middle": 4}),
        ("chunk", {"first": 4, "middle": 4}),
    ],
)
def test_parts_of_a_split_leave(how: str, found: dict[str, int]) -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(Partial(how), torch.randn(2, 5))
    assert sizes(network.structures) == found
    for seed in range(3):
        assert removal_error(network, torch.randn(4, 6, 5), seed=seed) < 1e-5


class Joined(nn.Module):
    """No layer reads a part by itself, so that all of a part can leave."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [3, 6, 2]
        self.first, self.last = nn.Linear(5, 11), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.first(x).split(self.sizes, -1)
        out: Tensor = self.last(torch.cat([c.tanh(), a.sigmoid(), b.sin()], -1))
        return out


def test_a_whole_part_leaves() -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(Joined(), torch.randn(2, 5))
    assert sizes(network.structures) == {"first": 11}
    keep = {"theta.first": torch.arange(11) > 3}
    small: Any = compact(network, keep)
    x = torch.randn(3, 5)
    assert small.sizes == [0, 5, 2]
    torch.testing.assert_close(small(x), network(x, {"theta.first": keep["theta.first"].float()}))


class Mixer(nn.Module):
    """A layer is not called: other code uses its weights, as in Mamba."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(4, 3)
        self.convolution = nn.Conv1d(4, 4, 1, groups=4)
        self.steps, self.rates = nn.Linear(2, 4), nn.Parameter(torch.rand(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.first(x).chunk(2, -1)
        y = y * self.convolution.weight.squeeze() + self.convolution.bias
        step = self.steps.weight @ x[..., :2, None] + self.steps.bias.unsqueeze(-1)
        state = (y.unsqueeze(-1) * (step * self.rates).sigmoid()).sum(-1)
        out: Tensor = self.last(state * gate.tanh())
        return out


def test_weights_of_layers_that_are_not_called_follow() -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(Mixer(), torch.randn(2, 7, 5))
    assert sizes(network.structures) == {"first": 4}
    assert removal_error(network, torch.randn(3, 9, 5), seed=1) < 1e-5
    small: Any = compact(network, {"theta.first": torch.tensor([True, False, False, True])})
    assert small.steps.weight.shape == (small.steps.out_features, 2) == (2, 2)
    assert small.rates.shape == (2, 6)
    convolution = small.convolution
    assert (convolution.groups, convolution.in_channels, convolution.out_channels) == (2, 2, 2)


@pytest.mark.filterwarnings("ignore")
def test_mamba_loses_inner_channels() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers, a test extra, is not installed")
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=2, state_size=4)
    net = transformers.MambaForCausalLM(config).eval()
    network = NoisyNetwork(net, torch.randint(99, (2, 7)))
    assert [family.size for family in network.structures] == [16, 16]
    keep = {family.name: torch.rand(16) < 0.5 for family in network.structures}
    words = torch.randint(99, (3, 11))
    with torch.no_grad():
        expected = network(words, {name: mask.float() for name, mask in keep.items()}).logits
        torch.testing.assert_close(compact(network, keep)(words).logits, expected, rtol=0, atol=1e-5)


def test_what_all_heads_depend_on_is_named() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.last = (nn.Linear(8, 8) for _ in range(4))
            self.norm = nn.RMSNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                one.unflatten(-1, (-1, 4)).transpose(1, 2)
                for one in (self.norm(self.q(x)), self.norm(self.k(x)), self.v(x))
            )
            y = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)
            out: Tensor = self.last(y)
            return out

    torch.manual_seed(0)
    left_out = dict(find_structures(Normed(), torch.randn(2, 5, 8)).left_out)
    assert "all heads of '' depend on each of them" in left_out["theta.q"]
