"""Structures without weights: found, and cut with no change of the function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bmrs_pyro.network import NoisyNetwork, compact
from bmrs_pyro.weights import empty_structures
from tests.weights.elsewhere import elsewhere


def lenet(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), activation, nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), activation, nn.Flatten(),
        nn.Linear(6 * 4, 8), activation, nn.Linear(8, 3),
    )  # fmt: skip


@torch.no_grad()
def emptied(activation: nn.Module) -> NoisyNetwork:
    net = lenet(activation)
    weight = net.get_parameter
    weight("0.weight")[1], weight("0.bias")[1] = 0.0, 0.0  # nothing comes in
    weight("6.weight")[:, 2 * 4 : 3 * 4] = 0.0  # nothing goes out of channel 2 of the second convolution
    weight("3.weight")[:, 3] = 0.0  # nothing goes out of channel 3 of the first
    weight("6.weight")[5] = 0.0  # the bias stays: still something
    return NoisyNetwork(net, torch.zeros(2, 1, 10, 10))


@pytest.mark.parametrize(
    "activation", [nn.Tanh(), nn.ReLU(), nn.SiLU(), nn.GELU()], ids=lambda a: type(a).__name__
)
def test_compact_network_computes_the_same(activation: nn.Module) -> None:
    network = emptied(activation)
    keep = empty_structures(network)
    kept = {name: mask.nonzero().flatten().tolist() for name, mask in keep.items()}
    assert kept == {"theta.0": [0, 2], "theta.3": [0, 1, 3, 4, 5], "theta.6": list(range(8))}
    x = torch.randn(5, 1, 10, 10)
    torch.testing.assert_close(compact(network, keep)(x), network(x), rtol=1e-5, atol=1e-5)


def test_where_nothing_in_is_still_something_out() -> None:
    network = emptied(nn.Sigmoid())  # a half
    keep = empty_structures(network)
    assert keep["theta.0"].tolist() == [True, True, True, False]
    x = torch.randn(5, 1, 10, 10)
    torch.testing.assert_close(compact(network, keep)(x), network(x), rtol=1e-5, atol=1e-5)


def test_what_goes_takes_its_neighbours_along() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        net.get_parameter("2.weight").copy_(torch.eye(5))  # neuron i reads neuron i alone
        net.get_parameter("4.weight")[:, 1] = 0.0
    network = NoisyNetwork(net, torch.zeros(1, 4))
    keep = empty_structures(network)
    assert keep["theta.2"].tolist() == [True, False, True, True, True]
    assert keep["theta.0"].tolist() == [True, False, True, True, True]
    x = torch.randn(7, 4)
    torch.testing.assert_close(compact(network, keep)(x), network(x))


def test_a_family_keeps_one_structure() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    nn.init.zeros_(net.get_parameter("2.weight"))
    network = NoisyNetwork(net, torch.zeros(1, 4))
    keep = empty_structures(network)
    assert keep["theta.0"].sum() == 1
    x = torch.randn(7, 4)
    torch.testing.assert_close(compact(network, keep)(x), network(x))


def test_a_full_network_stays() -> None:
    network = NoisyNetwork(lenet(nn.Tanh()), torch.zeros(2, 1, 10, 10))
    assert empty_structures(network).removed == 0


def test_the_answer_is_of_evaluation_and_leaves_modes_and_statistics() -> None:
    net = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
    )  # fmt: skip
    with torch.no_grad():
        net.get_parameter("0.weight")[1:3], net.get_parameter("0.bias")[1:3] = 0.0, 0.0
    network = NoisyNetwork(net, torch.zeros(8, 4))
    net.train()
    net[2].eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    keep = empty_structures(network)
    assert keep["theta.0"].tolist() == [True, False, False, True, True, True]
    assert keep["theta.3"].all()
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.train()  # dropout too
    assert empty_structures(network) == keep


def test_a_network_on_another_device_than_its_example() -> None:
    network = emptied(nn.Tanh())
    keep = empty_structures(network)
    with elsewhere(network):
        assert empty_structures(network) == keep


def test_inputs_by_name() -> None:
    network = emptied(nn.Tanh())
    named = NoisyNetwork(compact(network, {}), {"input": network.example_inputs[0]})
    assert empty_structures(named) == empty_structures(network)
