"""The small network computes what the masked one does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.network import NoisyNetwork, compact, complexity
from tests.network.networks import CASES, gains, masks, relative_error

BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-5}


def masked(theta: dict[str, Tensor], keep: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: gain * keep[name] for name, gain in theta.items()}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", CASES)
def test_compact_equals_masked(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    network = NoisyNetwork(case.make(dtype), *case.draw(dtype=dtype))
    for share in (0.2, 0.5, 0.8):
        keep, theta = masks(network.structures, share), gains(network.structures, dtype=dtype)
        before = copy.deepcopy(network.state_dict())
        small = compact(network, keep, theta)
        inputs = case.draw(5, dtype=dtype)  # a batch of another size
        assert relative_error(network(inputs, masked(theta, keep)), small(*inputs)) < BOUNDS[dtype]
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_small_network_is_plain() -> None:
    case = CASES["residual"]
    network: Any = NoisyNetwork(case.make(), *case.draw())
    network.net[0].weight.requires_grad_(False)
    small = compact(network, masks(network.structures))
    assert type(small) is type(network.net)
    assert not any(module._forward_pre_hooks for module in small.modules())
    assert not any("bmrs_pyro" in type(module).__module__ for module in small.modules())
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in network.net.parameters()
    ]
    theirs = {parameter.data_ptr() for parameter in network.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in small.parameters()}
    assert NoisyNetwork(small, *case.draw()).structures  # and can be pruned again


@pytest.mark.parametrize("name", CASES)
def test_layers_say_their_new_sizes(name: str) -> None:
    case = CASES[name]
    network = NoisyNetwork(case.make(), *case.draw())
    small = compact(network, {family.name: torch.arange(family.size) < 2 for family in network.structures})
    for module in small.modules():
        match module:
            case nn.Linear():
                assert module.weight.shape == (module.out_features, module.in_features)
            case nn.modules.conv._ConvNd():
                channels = (module.out_channels, module.in_channels // module.groups)
                if module.transposed:
                    channels = (module.in_channels, module.out_channels // module.groups)
                assert module.weight.shape[:2] == channels
            case nn.modules.batchnorm._NormBase():
                assert module.weight.shape == (module.num_features,)
            case nn.PReLU():
                assert module.weight.shape == (module.num_parameters,)
            case nn.Embedding():
                assert module.weight.shape[1] == module.embedding_dim
    assert not any(module.training for module in small.modules())
    assert complexity(small, *case.draw()).parameters < complexity(network).parameters


def test_heads_leave_whole() -> None:
    case = CASES["transformer"]
    network: Any = NoisyNetwork(case.make(), *case.draw())
    small: Any = compact(network, {"theta.attention.query": torch.tensor([True, False, True, True])})
    assert small.attention.num_heads == 3
    assert "attention.query, 4 heads" in [family.label for family in network.structures]
    assert small.attention.key.weight.shape == (6, 8)
    assert torch.equal(small.attention.value.weight[2:], network.net.attention.value.weight[4:])


def test_training_goes_on() -> None:
    case = CASES["residual"]
    network = NoisyNetwork(case.make(), *case.draw())
    small = compact(network, masks(network.structures)).train()
    small(*case.draw(4)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize(
    ("keep", "theta", "error", "message"),
    [
        ({"theta.9": torch.ones(8) > 0}, None, ValueError, r"masks of unknown families \['theta.9'\]"),
        (
            {"theta.0": torch.ones(8)},
            None,
            TypeError,
            "the mask of 'theta.0' is torch.float32; expected torch.bool",
        ),
        ({"theta.0": torch.ones(7) > 0}, None, ValueError, r"'theta.0' has shape \(7,\); expected \(8,\)"),
        ({"theta.0": torch.ones(8) < 0}, None, ValueError, "'theta.0' keeps none of 8 structures"),
        (
            {},
            {"theta.0": torch.ones(2, 8)},
            ValueError,
            r"gains of 'theta.0' have shape \(2, 8\); expected \(C,\)",
        ),
        ({}, {"theta.0": torch.full((8,), torch.nan)}, ValueError, "gains of 'theta.0' hold NaN or infinity"),
        ({}, {"theta.9": torch.ones(8)}, ValueError, "gains of 'theta.9' have shape"),
    ],
)
def test_wrong_arguments_are_named(
    keep: dict[str, Tensor], theta: dict[str, Tensor] | None, error: type[Exception], message: str
) -> None:
    case = CASES["mlp"]
    network = NoisyNetwork(case.make(), *case.draw())
    with pytest.raises(error, match=message):
        compact(network, keep, theta)


TORCHVISION = [
    "resnet18",
    "mobilenet_v2",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "densenet121",
            "googlenet",
            "resnext50_32x4d",
            "efficientnet_b0",
            "swin_t",
            "shufflenet_v2_x0_5",
        )
    ),
]


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": False} if name == "googlenet" else {}
    net = models.get_model(name, weights=None, num_classes=10, **options).eval()
    x = torch.randn(2, 3, 64, 64)
    network = NoisyNetwork(net, x[:1])
    keep, theta = masks(network.structures), gains(network.structures, dtype=torch.float32)
    small = compact(network, keep, theta)
    assert relative_error(network(x, masked(theta, keep)), small(x)) < 1e-5
    assert complexity(small, x).macs < complexity(net, x).macs


def test_what_has_no_gains_and_what_is_no_mask_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(TypeError, match="network is a Sequential; give a NoisyNetwork"):
        compact(net, {})  # type: ignore[arg-type]
    network = NoisyNetwork(net, torch.zeros(1, 4))
    with pytest.raises(TypeError, match=r"the mask of 'theta.0' is a list; expected a boolean tensor \(3,\)"):
        compact(network, {"theta.0": [True, False, True]})  # type: ignore[dict-item]
