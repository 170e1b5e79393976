"""Channels that meet buffers and complex weights, and families of weights beside layers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bmrs_pyro as bp
from bmrs_pyro.network import NoisyNetwork, compact, cost_model, cost_shares, find_structures
from bmrs_pyro.training import Recipe, default_optim


class Scale(nn.Module):
    """Fixed scales, as those of features."""

    def __init__(self, *shape: int, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(shape) + 0.5, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class ActNorm(nn.Module):
    """A batch norm by hand, whose statistics are buffers that training changes in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(1, channels, 1, 1))
        self.register_buffer("var", torch.rand(1, channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3), keepdim=True))
        return (x - self.mean) / self.var.sqrt()


class Positions(nn.Module):
    """Sinusoidal positions, longer than the sequences."""

    def __init__(self, width: int) -> None:
        super().__init__()
        angle = torch.arange(30.0)[:, None] / 100 ** (torch.arange(width) / width)
        self.register_buffer("table", torch.cat([angle.sin(), angle.cos()], 1)[None, :, ::2])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[:, : x.shape[1]]


class Spectral(nn.Module):
    """A complex filter for each channel, or a complex matrix for each frequency."""

    def __init__(self, channels: int, *, mixes: bool) -> None:
        super().__init__()
        shape = (channels, channels, 9) if mixes else (channels, 9)
        self.weight = nn.Parameter(torch.randn(shape, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        rule = "bik,iok->bok" if self.weight.dim() > 2 else "bik,ik->bik"
        return torch.fft.irfft(torch.einsum(rule, torch.fft.rfft(x), self.weight), n=x.shape[-1])


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8, dtype=torch.cfloat)
        self.second = nn.Linear(8, 3, dtype=torch.cfloat)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(torch.complex(x, 2 * x)))).abs()


def spectral(*, mixes: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(1, 8, 1),
        Spectral(8, mixes=mixes),
        nn.GELU(),
        nn.Conv1d(8, 12, 1),
        nn.GELU(),
        nn.Conv1d(12, 1, 1),
    )


CASES = [
    (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Scale(8), nn.Linear(8, 2)), (5,), {"theta.0": 8}),
    (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Scale(1, 8), nn.Linear(8, 2)), (5,), {"theta.0": 8}),
    (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Scale(8, 1, 1), nn.Conv2d(8, 2, 3)),
        (3, 9, 9),
        {"theta.0": 8},
    ),
    (
        nn.Sequential(
            nn.Conv2d(3, 8, 3), ActNorm(8), nn.ReLU(), nn.Conv2d(8, 6, 3), ActNorm(6), nn.Conv2d(6, 2, 3)
        ),
        (3, 9, 9),
        {"theta.0": 8, "theta.3": 6},
    ),
    (nn.Sequential(nn.Linear(5, 8), Positions(8), nn.ReLU(), nn.Linear(8, 2)), (7, 5), {"theta.0": 8}),
    (spectral(mixes=False), (1, 16), {"theta.0": 8, "theta.3": 12}),
    (spectral(mixes=True), (1, 16), {"theta.3": 12}),
    (Complex(), (6,), {"theta.first": 8}),
]


@pytest.mark.parametrize(("net", "shape", "sizes"), CASES)
def test_removal_is_exact(
    net: nn.Module, shape: tuple[int, ...], sizes: dict[str, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, *shape)
    network = NoisyNetwork(copy.deepcopy(net).eval(), x)
    assert {family.name: family.size for family in network.structures} == sizes
    keep = {name: torch.arange(size) % 3 != 1 for name, size in sizes.items()}
    gains = {name: mask.float() * (0.5 + torch.rand(len(mask))) for name, mask in keep.items()}
    small = compact(network, keep, gains)
    torch.testing.assert_close(
        small(x),
        network(x, {name: gain.expand(len(x), -1) for name, gain in gains.items()}),
        rtol=1e-5,
        atol=1e-5,
    )
    left = sum(parameter.numel() for parameter in small.parameters())
    assert left == cost_model(network)({name: int(mask.sum()) for name, mask in keep.items()})
    assert sum(cost_shares(network).values()) == pytest.approx(1)
    bp.save(small, tmp_path / "small.safetensors")
    torch.testing.assert_close(bp.load(tmp_path / "small.safetensors", copy.deepcopy(net))(x), small(x))
    # training changes buffers of the small network in place, too
    small.train()(x)


def test_a_buffer_that_is_not_saved_is_the_reason() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Scale(8, persistent=False), nn.Linear(8, 2))
    found = find_structures(net, torch.randn(2, 5))
    assert not len(found)
    reasons = {one.name: one.reason for one in found.left_out}
    said = "; perhaps because of buffers of their length (2.scale): a buffer can be cut with them if it is"
    assert said in reasons["theta.0"]


class Running(nn.Module):
    """Statistics that training changes, with typical values at the start, and a use that mixes channels."""

    def __init__(self, start: float, *, mixes: bool) -> None:
        super().__init__()
        self.register_buffer("running", torch.full((8,), start))
        self.mixes = mixes

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.running) * (1 + float(self.running.abs().mean())) if self.mixes else x - self.running


@pytest.mark.parametrize(("start", "mixes"), [(0.0, True), (1.0, True), (0.0, False)])
def test_buffers_that_training_changes_do_not_mix(start: float, mixes: bool) -> None:
    """With the values at the start alone, nothing showed that the mean over channels changes with them."""
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Running(start, mixes=mixes), nn.Linear(8, 2))
    found = find_structures(net, torch.randn(2, 5))
    assert [family.name for family in found] == ([] if mixes else ["theta.0"])


class Skip(nn.Module):
    """A fixed projection of the inputs is added to hidden neurons; another buffer is read as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("projection", torch.randn(8, 6))
        self.register_buffer("numbers", torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x) + x @ self.projection.T
        return self.last(hidden.relu() * float(self.numbers.numpy()[0]))


@pytest.mark.parametrize("x", [torch.zeros(1, 6), torch.randn(3, 6)])
def test_zeros_as_inputs_hide_no_buffer(x: Tensor) -> None:
    assert [(family.name, family.size) for family in find_structures(Skip(), x)] == [("theta.first", 8)]


class View(nn.Module):
    """A buffer that is a part of another one, through which training changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("whole", torch.rand(12) + 0.5)
        self.register_buffer("part", self.whole[:8])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.part


def test_a_view_of_a_buffer_is_not_cut() -> None:
    found = find_structures(nn.Sequential(nn.Linear(5, 8), View(), nn.Linear(8, 2)), torch.randn(2, 5))
    assert not len(found)


def test_complex_weights_are_trained() -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(
        nn.Sequential(spectral(mixes=True), nn.Flatten(), nn.Linear(16, 2)), torch.randn(2, 1, 16)
    )
    model = bp.SupervisedModel(network, "categorical", 90)
    assert not default_optim(Recipe(), model).defaults["fused"]
    x = torch.randn(90, 1, 16)
    weight = network.net[0][1].weight
    before = weight.detach().clone()
    guide = bp.AutoTruncatedLogNormal(model)
    history = bp.fit(
        model, guide, [(x, (x.mean((1, 2)) > 0).long())], epochs=3, fine_tune_epochs=0, progress=False
    )
    assert history.epochs[-1].elbo > history.epochs[0].elbo
    assert (weight.detach() - before).abs().max() > 1e-4


class BesideLayers(nn.Module):
    """A matrix of its own, learned positions and a scale, beside layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.matrix = nn.Parameter(torch.randn(6, 8))
        self.positions = nn.Parameter(torch.randn(7, 8))
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm((self.first(x).relu() @ self.matrix).relu() + self.positions))


def test_a_matrix_beside_layers_is_listed() -> None:
    """A module with layers in it was not looked at, so nothing was said of its own neurons."""
    found = find_structures(BesideLayers(), torch.randn(4, 7, 5))
    reasons = {one.name: one.reason for one in found.left_out}
    assert reasons["theta."] == "the network has weights of its own (matrix), not in layers"
