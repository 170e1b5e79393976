"""Parameters as matrices: what is gathered where, and that nothing is lost on the way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bmrs_pyro.weights import weight_layers


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 3, 2),
        nn.Flatten(),
        nn.Linear(27, 5, bias=False),
    )


def test_bias_is_one_more_column() -> None:
    layers = weight_layers(network())
    assert {layer.name: tuple(layer.shape) for layer in layers} == {
        "weights.0": (4, 2 * 9 + 1),
        "weights.1": (4, 2),
        "weights.2.weight": (4, 3 * 4),  # a transposed convolution counts outputs along the second dimension
        "weights.2.bias": (3, 1),
        "weights.4": (5, 27),
    }
    assert [layer.last for layer in layers] == [False] * 4 + [True]


def test_matrix_and_back() -> None:
    net = network()
    parameters = dict(net.named_parameters())
    seen = set()
    for layer in weight_layers(net):
        matrix = layer.matrix(parameters)
        assert matrix.shape == layer.shape
        for name, value in layer.parameters(matrix).items():
            assert torch.equal(value, parameters[name])
            seen.add(name)
    assert seen == set(parameters)
    first = weight_layers(net)[0]
    assert torch.equal(first.matrix(parameters)[:, -1], parameters["0.bias"])


def test_predicate() -> None:
    layers = weight_layers(network(), lambda name: name.endswith("weight") and not name.startswith("1"))
    assert [list(layer.shapes) for layer in layers] == [["0.weight"], ["2.weight"], ["4.weight"]]
    with pytest.raises(ValueError, match=r"picks none .* 0\.weight"):
        weight_layers(network(), lambda name: False)


def test_bare_module_and_scalar_parameter() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(2.0))

    (layer,) = weight_layers(Scaled())
    assert (layer.name, tuple(layer.shape)) == ("weights", (1, 1))
    assert layer.parameters(torch.tensor([[3.0]]))["factor"].shape == ()
