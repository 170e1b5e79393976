"""Structures that layer norms normalise over: gains weigh the statistics, and removal leaves a plain norm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bmrs_pyro as bp
from bmrs_pyro import AutoTruncatedLogNormal, NoisyNetwork, SupervisedModel, compact, complexity, fit
from bmrs_pyro.network import find_structures
from bmrs_pyro.network.layer_norms import weighed_norm
from tests.network.networks import relative_error

WIDTH, WORDS = 16, 30
VECTORS, IDS = (
    torch.randn(6, 5, generator=torch.Generator().manual_seed(0)),
    torch.arange(36).view(4, 9) % WORDS,
)
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A stream that a block reads through a norm and adds to."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.norm, self.last = norm(WIDTH), norm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(self.up(self.norm(x)).relu())
        return self.head(self.last(x))


class Encoder(nn.Module):
    """Words and positions, torch's encoder, and a head whose weights may be those of the words."""

    def __init__(self, *, before: bool, tied: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(1, 9, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 24, 0.0, batch_first=True, norm_first=before)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.words(ids) + self.places))


class Counting(nn.Module):
    """A network whose own code counts the channels of its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 12
        self.patches, self.norm = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12)
        self.scale, self.inner = nn.Parameter(torch.ones(12)), nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).reshape(len(x), self.hidden, 4).transpose(1, 2)
        return self.head((x + self.scale * self.inner(self.norm(x)).relu()).mean(1))


class SquareRMSNorm(nn.Module):
    """An RMS norm of one's own, in single precision, as language models have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        single = x.float()
        scaled = single * torch.rsqrt(single.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return (1 + self.weight) * scaled.to(x.dtype)


class QuickNorm(nn.LayerNorm):
    """A layer norm in other words, as timm's."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class LayerNorm2d(nn.LayerNorm):
    """A layer norm over the channels of images, as ConvNeXt's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ByHandNorm(nn.LayerNorm):
    """A layer norm over the channels of images, written out."""

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + self.eps).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "layer norm": (lambda: Residual(nn.LayerNorm), VECTORS, 1),
    "rms norm": (lambda: Residual(nn.RMSNorm), VECTORS, 1),
    "without weights": (lambda: Residual(lambda n: nn.LayerNorm(n, elementwise_affine=False)), VECTORS, 1),
    "without bias": (lambda: Residual(lambda n: nn.LayerNorm(n, bias=False)), VECTORS, 1),
    "one's own rms norm": (lambda: Residual(SquareRMSNorm), VECTORS, 1),
    "in other words": (lambda: Residual(QuickNorm), VECTORS, 1),
    "norm first": (lambda: Encoder(before=True, tied=False), IDS, 1),
    "norm after": (lambda: Encoder(before=False, tied=False), IDS, 1),
    "tied": (lambda: Encoder(before=True, tied=True), IDS, 1),
    "counting": (Counting, IMAGES, 1),
    "perceptron": (
        lambda: nn.Sequential(
            *(nn.Linear(5, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 12), nn.LayerNorm(12), nn.GELU()),
            nn.Linear(12, 2),
        ),
        VECTORS,
        2,
    ),
    "images": (
        lambda: nn.Sequential(
            *(
                nn.Conv2d(3, 12, 3),
                LayerNorm2d(12),
                nn.Conv2d(12, 12, 3, groups=12),
                LayerNorm2d(12),
                nn.GELU(),
            ),
            *(nn.Conv2d(12, 7, 1), nn.Flatten(), nn.Linear(112, 4)),
        ),
        IMAGES,
        1,
    ),
    "images by hand": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), ByHandNorm(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)),
        IMAGES,
        1,
    ),
    "flattened": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.LayerNorm(216), nn.Linear(216, 5)),
        IMAGES,
        1,
    ),
}


def made(name: str) -> tuple[nn.Module, Tensor, int]:
    make, x, count = NETWORKS[name]
    torch.manual_seed(0)
    net = make().eval()
    for parameter in net.parameters():
        if parameter.dim() < 2:  # weights of norms other than 1 and 0
            parameter.data.uniform_(0.5, 1.5)
    return net, x, count


@pytest.mark.parametrize("name", NETWORKS)
def test_removal_is_exact(name: str) -> None:
    net, x, count = made(name)
    network = NoisyNetwork(net, x, trained=True)
    assert sum(bool(family.norms) for family in network.structures) == count
    random = torch.Generator().manual_seed(3)
    keep = {f.name: torch.rand(f.size, generator=random) < 0.6 for f in network.structures}
    for mask in keep.values():
        mask[:3], mask[-1] = True, False
    theta = {one: mask.float() for one, mask in keep.items()}
    # other families may have any gains
    theta |= {f.name: 1.5 * theta[f.name] for f in network.structures if not f.norms}
    with torch.no_grad():
        expected = network(x, theta)
        small = compact(network, keep, {one: gain for one, gain in theta.items() if gain.max() > 1})
        assert relative_error(expected, small(x)) < 1e-5
        by_example = {one: gain.expand(len(x), -1).clone() for one, gain in theta.items()}
        assert relative_error(expected, network(x, by_example)) < 1e-5
        shared = {one: gain.expand(len(x) // 2, -1).clone() for one, gain in theta.items()}
        assert relative_error(expected, network(x, shared)) < 1e-5
        assert torch.equal(network(x), net(x))
    assert complexity(small, x).macs < complexity(net, x).macs
    assert not any(type(module).__module__.startswith("bmrs_pyro.network.gate") for module in small.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_left_out_without_being_asked_for(name: str) -> None:
    net, x, count = made(name)
    structures = find_structures(net, x)
    assert not any(family.norms for family in structures)
    assert sum("normalises over them" in reason for _, reason in structures.left_out) >= count


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm(7), nn.LayerNorm(7, bias=False), nn.RMSNorm(7), nn.RMSNorm(7, eps=0.1)]
)
def test_weighed_statistics_are_those_of_copies(layer: nn.Module) -> None:
    """Gains of 2 weigh a channel like two copies of it; the oracle is the layer's function on the copies."""
    layer.double()
    x, counts = torch.randn(3, 7, dtype=torch.float64), torch.tensor([1, 2, 0, 3, 1, 1, 2])
    layer.weight.data.uniform_(0.5, 1.5)
    actual = weighed_norm(layer, x, counts.double(), layer(x))
    copies, weight = x.repeat_interleave(counts, 1), layer.weight.repeat_interleave(counts)
    shape, bias = (int(counts.sum()),), getattr(layer, "bias", None)
    if isinstance(layer, nn.LayerNorm):
        own = None if bias is None else bias.repeat_interleave(counts)
        expected = functional.layer_norm(copies, shape, weight, own, layer.eps)
    else:
        expected = functional.rms_norm(copies, shape, weight, cast(nn.RMSNorm, layer).eps)
    torch.testing.assert_close(actual.repeat_interleave(counts, 1), expected)


def test_gradients_of_the_gains_are_those_of_differences() -> None:
    net, x, _ = made("layer norm")
    network = NoisyNetwork(net.double(), x.double(), trained=True)
    (stream,) = (family.name for family in network.structures if family.norms)

    def outputs(gain: Tensor) -> Tensor:
        return network(x.double(), {stream: gain})

    gain = torch.rand(6, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outputs, (gain,))


class Doubled(nn.LayerNorm):
    """A layer norm whose own code does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.sum(-1, keepdim=True)


@pytest.mark.parametrize("norm", [Doubled, lambda width: nn.GroupNorm(1, width)])
def test_other_norms_stay_left_out(norm: Any) -> None:
    structures = find_structures(Residual(norm), VECTORS, trained=True)
    assert [family.layer for family in structures] == ["up"]


def test_what_needs_other_gains_is_refused() -> None:
    net, x, _ = made("layer norm")
    network = NoisyNetwork(net, x, trained=True)
    (stream,) = (family for family in network.structures if family.norms)
    with pytest.raises(ValueError, match=r"'norm' normalises over structures with gains other than 1"):
        compact(network, {}, {stream.name: torch.full((WIDTH,), 0.5)})
    model = SupervisedModel(network, "categorical", 6)
    with pytest.raises(ValueError, match=r"make NoisyNetwork\(net, x\) without trained=True"):
        fit(model, AutoTruncatedLogNormal(model), [(x, torch.arange(6) % 3)], epochs=1, progress=False)


def test_prune_cuts_the_stream_of_a_trained_network() -> None:
    net, x, _ = made("layer norm")
    before = copy.deepcopy(net.state_dict())
    y = net(x).argmax(1)
    found = bp.prune(
        net, [(x, y)] * 4, validation=[(x, y)] * 2, trained=True, epochs=3, max_macs="20%", progress=False
    )
    small = found.network
    assert small.embed.out_features < WIDTH
    assert small.norm.normalized_shape == (small.embed.out_features,)
    assert complexity(small, x).macs <= 0.2 * complexity(net, x).macs
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert found.posteriors["theta.embed"].loc.shape == (small.embed.out_features,)


def test_a_norm_of_the_inputs_stays_whole() -> None:
    net = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 4))
    assert [family.layer for family in find_structures(net, VECTORS, trained=True)] == ["1"]


def test_nothing_passes_with_gains_of_zero() -> None:
    net, x, _ = made("layer norm")
    network = NoisyNetwork(net, x, trained=True)
    (stream,) = (family.name for family in network.structures if family.norms)
    with torch.no_grad():
        outputs = network(x, {stream: torch.zeros(WIDTH)})
    assert torch.equal(outputs, outputs[:1].expand_as(outputs))
    assert outputs.isfinite().all()


def test_a_network_of_which_only_norms_read_structures_is_told_of_trained_weights() -> None:
    def layers(norm: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(5, 16), norm, nn.ReLU(), nn.Linear(16, 3))

    for norm, told in ((nn.LayerNorm(16), True), (nn.GroupNorm(1, 16), False)):
        with pytest.raises(ValueError, match="only plain layers read") as caught:
            NoisyNetwork(layers(norm), VECTORS)
        assert ("trained weights and trained=True (bmrs fit --weights)" in str(caught.value)) == told
    assert NoisyNetwork(layers(nn.LayerNorm(16)), VECTORS, trained=True).structures
