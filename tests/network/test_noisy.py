"""Gains at the consumers' inputs, against networks that have them in their weights, one per example."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.network import NoisyNetwork, compact, find_structures, gate
from tests.network.networks import CASES, gains, lenet5, mlp, relative_error


def noisy(name: str) -> tuple[Any, tuple[Tensor, ...]]:
    case = CASES[name]
    inputs = case.draw(3)
    return NoisyNetwork(case.make(), *inputs), inputs


@pytest.mark.parametrize("name", CASES)
def test_gains_of_each_example_equal_a_network_of_its_own(name: str) -> None:
    network, inputs = noisy(name)
    theta = gains(network.structures, 3)
    for i in range(3):
        one = {family: gain[i] for family, gain in theta.items()}
        example = tuple(x[i : i + 1] for x in inputs)
        folded = compact(network, {}, one)
        assert relative_error(folded(*example), network(example, one)) < 1e-12
        alone = network(example, {family: gain[None] for family, gain in one.items()})
        assert relative_error(alone, network(example, one)) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_batches_of_gains(name: str) -> None:
    network, inputs = noisy(name)
    theta = gains(network.structures, 3)
    together = network(inputs, theta)
    first = {family: gain[:1] for family, gain in theta.items()}
    alone = network(tuple(x[:1] for x in inputs), first)
    assert relative_error(alone, torch.utils._pytree.tree_map(lambda out: out[:1], together)) < 1e-12
    # some families per example, some for all, some not at all
    names = list(theta)
    mixed = {names[0]: theta[names[0]], **{name: theta[name][0] for name in names[1:2]}}
    spread = {name: gain.expand(3, -1) for name, gain in mixed.items()}
    spread |= {
        f.name: torch.ones(3, f.size, dtype=torch.float64) for f in network.structures if f.name not in mixed
    }
    assert relative_error(network(inputs, spread), network(inputs, mixed)) < 1e-12


@pytest.mark.parametrize("limit", [0, 2**60], ids=["made again", "kept"])
@pytest.mark.parametrize("name", CASES)
def test_examples_share_gains_in_turns(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Example i has row i mod n: values and gradients are those of gains written out for every example."""
    monkeypatch.setattr(gate, "_RECOMPUTED_BYTES", limit)
    network = NoisyNetwork(CASES[name].make(), *CASES[name].draw(2))
    inputs = CASES[name].draw(6)
    theta = {family: gain.requires_grad_() for family, gain in gains(network.structures, 2).items()}
    found = []
    for rows in (theta, {family: gain.repeat(3, 1) for family, gain in theta.items()}):
        leaves = torch.utils._pytree.tree_leaves(network(inputs, rows))
        loss = sum(leaf.square().sum() for leaf in leaves)
        found.append((*leaves, *torch.autograd.grad(loss, list(theta.values()), allow_unused=True)))
    for shared, written_out in zip(*found, strict=True):
        assert relative_error(shared, written_out) < 1e-12


def test_without_gains_it_is_the_network() -> None:
    network, inputs = noisy("residual")
    plain = CASES["residual"].make()
    plain.load_state_dict(network.net.state_dict())
    ones = {family.name: torch.ones(family.size, dtype=torch.float64) for family in network.structures}
    for theta in (None, {}, ones):
        assert torch.equal(network(inputs, theta), plain(*inputs))
    network(inputs, gains(network.structures))
    assert torch.equal(network.net(*inputs), plain(*inputs))  # nothing of the call is left


def test_gradients_reach_the_gains() -> None:
    network, inputs = noisy("dense")
    theta = {name: gain.requires_grad_() for name, gain in gains(network.structures, 3).items()}
    names = list(theta)
    assert torch.autograd.gradcheck(
        lambda *values: network(inputs, dict(zip(names, values, strict=True))), tuple(theta.values())
    )


def test_an_error_leaves_no_gains_behind() -> None:
    network, inputs = noisy("mlp")
    expected = network(inputs)
    with pytest.raises(RuntimeError):
        network(torch.zeros(3, 5, dtype=torch.float64), gains(network.structures))
    assert torch.equal(network.net(*inputs), expected)


def test_deep_copies_are_independent() -> None:
    network, inputs = noisy("residual")
    theta = gains(network.structures, 3)
    expected = network(inputs, theta)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(inputs, theta), expected)
    with torch.no_grad():
        network.net[0].weight.zero_()
    keep = {network.structures[0].name: torch.arange(6) < 2}
    network.remove_(keep)
    del network
    gc.collect()
    assert torch.equal(twin(inputs, theta), expected)
    twin.remove_(keep)
    assert twin.structures[0].size == 2


def test_two_networks_at_once() -> None:
    (one, x), (two, y) = noisy("lenet5"), noisy("mlp")
    theta = gains(one.structures)
    before = one(x, theta)
    two(y, gains(two.structures))
    assert torch.equal(one(x, theta), before)


def test_state_and_parameters_are_the_networks_own() -> None:
    net = lenet5()
    network = NoisyNetwork(net, torch.zeros(1, 1, 32, 32))
    assert [name.removeprefix("net.") for name in network.state_dict()] == list(net.state_dict())
    assert all(mine is yours for mine, yours in zip(network.parameters(), net.parameters(), strict=True))


def test_wrapping_twice_is_refused() -> None:
    network, inputs = noisy("mlp")
    with pytest.raises(ValueError, match="inside a NoisyNetwork already"):
        NoisyNetwork(network.net, *inputs)
    with pytest.raises(ValueError, match="inside a NoisyNetwork already"):
        NoisyNetwork(network, *inputs)


def test_some_structures_only() -> None:
    net, x = lenet5(), torch.zeros(1, 1, 32, 32)
    network = NoisyNetwork(net, x, structures=find_structures(net, x)[:2])
    assert [family.name for family in network.structures] == ["theta.0", "theta.3"]
    with pytest.raises(
        ValueError, match=r"none of the network's 1 structure families can be removed \(theta.0: they are out"
    ):
        NoisyNetwork(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4))
    five = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)) for _ in range(5)))
    with pytest.raises(ValueError, match=r"and 2 more, in find_structures\(net, x\)\.left_out"):
        NoisyNetwork(five, torch.zeros(1, 4))
    with pytest.raises(ValueError, match="found on another network"):
        NoisyNetwork(mlp(), torch.zeros(1, 6), structures=network.structures)


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (
            {"theta.9": torch.ones(8)},
            r"gains for 'theta.9'; the network's families are \['theta.0', 'theta.2'\]",
        ),
        (
            {"theta.0": torch.ones(7)},
            r"the gains of 'theta.0' have shape \(7,\); expected \(8,\) or \(3, 8\)",
        ),
        (
            {"theta.0": torch.ones(3, 8), "theta.2": torch.ones(1, 8)},
            r"'theta.2' have shape \(1, 8\); .* as many for all families",
        ),
        ({"theta.0": torch.ones(0, 8)}, r"have shape \(0, 8\)"),
        ({"theta.0": torch.ones(2, 8)}, r"have shape \(2, 8\); expected \(8,\) or \(3, 8\)"),
    ],
)
def test_wrong_gains_are_named(theta: dict[str, Tensor], message: str) -> None:
    network, inputs = noisy("mlp")
    with pytest.raises(ValueError, match=message):
        network(inputs, theta)


class Windows(nn.Module):
    """Layers that see windows of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(self.first(x.reshape(-1, 2, 3)).relu())
        out: Tensor = self.last(inner.relu().reshape(x.shape[0], -1, 6).mean(1))
        return out


def test_windows_take_one_gain_for_all_examples() -> None:
    x = torch.randn(3, 8, 3)
    network = NoisyNetwork(Windows(), x)
    assert network(x, gains(network.structures, dtype=torch.float32)).shape == (3, 2)
    with pytest.raises(ValueError, match=r"layer 'second' reads 12 rows for a batch of 3: .* shape \(C,\)"):
        network(x, gains(network.structures, 3, dtype=torch.float32))


def test_gains_that_are_no_tensors_by_name_are_refused_in_one_line() -> None:
    network, inputs = noisy("mlp")
    for wrong, what in (([1.0] * 8, "list"), (0.5, "float"), (torch.ones(8).numpy(), "ndarray")):
        with pytest.raises(TypeError, match=rf"^the gains of 'theta.0' are a {what}; give a tensor \(C,\)"):
            network(inputs, {"theta.0": wrong})
        with pytest.raises(TypeError, match=rf"^the gains of 'theta.0' are a {what}"):
            compact(network, {}, {"theta.0": wrong})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"^theta is a Tensor; .* one tuple: network\(\(a, b\), theta\)$"):
        network(*inputs, torch.ones(8))
    with pytest.raises(TypeError, match=r"^theta is a Tensor"):
        compact(network, {}, torch.ones(8))  # type: ignore[arg-type]
