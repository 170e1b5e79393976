"""Removal in place: the same network as compaction gives, and an optimiser that goes on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.network import NoisyNetwork, compact
from tests.network.networks import CASES, gains, lenet5, masks, relative_error


def noisy(name: str) -> Any:
    case = CASES[name]
    return NoisyNetwork(case.make(), *case.draw())


@pytest.mark.parametrize("name", CASES)
def test_in_place_equals_compact(name: str) -> None:
    network = noisy(name)
    keep = masks(network.structures)
    small = compact(network, keep)
    objects = {key: id(value) for key, value in network.net.state_dict(keep_vars=True).items()}
    network.remove_(keep)
    assert {key: id(value) for key, value in network.net.state_dict(keep_vars=True).items()} == objects
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in network.net.state_dict().items())
    assert {f.name: f.size for f in network.structures} == {
        key: int(mask.sum()) for key, mask in keep.items()
    }
    inputs = CASES[name].draw(3)
    assert relative_error(small(*inputs), network(inputs)) == 0.0


@pytest.mark.parametrize("name", CASES)
def test_two_removals_are_one(name: str) -> None:
    network = noisy(name)
    first, theta = masks(network.structures, 0.7), gains(network.structures)
    twin = copy.deepcopy(network)
    network.remove_(first)
    second = masks(network.structures, 0.7)
    network.remove_(second)
    both = {key: mask.clone() for key, mask in first.items()}
    for key, mask in both.items():
        mask[mask.nonzero().squeeze(1)] = second[key]
    inputs = CASES[name].draw(3)
    expected = twin(inputs, {key: gain * both[key] for key, gain in theta.items()})
    actual = network(inputs, {key: gain[both[key]] for key, gain in theta.items()})
    assert relative_error(expected, actual) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_indices_lead_to_the_old_values(name: str) -> None:
    network = noisy(name)
    old = copy.deepcopy(network.net.state_dict())
    removal = network.remove_(masks(network.structures, 0.4))
    for key, value in network.net.state_dict().items():
        assert torch.equal(removal.cut(key, old[key]), value)
        if key in removal.indices:
            assert torch.equal(old[key].flatten()[removal.indices[key]], value)
        else:
            assert torch.equal(old[key], value)
    changed = {key for key, value in network.net.state_dict().items() if value.shape != old[key].shape}
    assert set(removal.indices) == changed
    with pytest.raises(ValueError, match="before the removal, got"):
        removal.cut(next(iter(changed)), torch.zeros(1))


def test_adam_goes_on_as_in_a_network_that_was_always_small() -> None:
    network = NoisyNetwork(lenet5(), torch.zeros(1, 1, 32, 32))
    adam = torch.optim.Adam(network.parameters(), 1e-3)

    def step(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor) -> None:
        optimiser.zero_grad()
        net(x).square().sum().backward()
        optimiser.step()

    batches = torch.randn(6, 8, 1, 32, 32)
    for x in batches[:3]:
        step(network, adam, x)
    keep = masks(network.structures)
    small = compact(network, keep)
    removal = network.remove_(keep)
    fresh = torch.optim.Adam(small.parameters(), 1e-3)
    for (name, old), new in zip(network.net.named_parameters(), small.parameters(), strict=True):
        assert old.grad is None or name not in removal.indices
        state = adam.state[old]
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment] = removal.cut(name, state[moment])
        fresh.state[new] = copy.deepcopy(state)
    for x in batches[3:]:
        step(network, adam, x)
        step(small, fresh, x)
    for mine, theirs in zip(network.net.parameters(), small.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_frozen_stays_frozen_and_others_whole() -> None:
    network = noisy("lenet5")
    network.net[0].weight.requires_grad_(False)
    network.remove_({"theta.0": torch.arange(6) < 3})
    assert network.net[0].weight.shape[0] == 3
    assert not network.net[0].weight.requires_grad
    assert network.net[3].weight.requires_grad
    assert [family.size for family in network.structures] == [3, 16, 120, 84]


def test_emptying_a_family_is_refused_and_changes_nothing() -> None:
    network = noisy("mlp")
    before = copy.deepcopy(network.net.state_dict())
    with pytest.raises(ValueError, match=r"'theta.2' keeps none of 7 structures; keep at least one"):
        network.remove_({"theta.0": torch.arange(8) < 3, "theta.2": torch.zeros(7) > 0})
    assert all(torch.equal(value, before[key]) for key, value in network.net.state_dict().items())
