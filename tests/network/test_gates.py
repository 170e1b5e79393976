"""What the gates keep for the backward pass: the same gradients from less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bmrs_pyro.metrics.footprint import peak_of
from bmrs_pyro.network import NoisyNetwork, gate
from tests.network.networks import CASES, gains


def gradients(name: str) -> dict[str, Tensor]:
    torch.manual_seed(5)
    case = CASES[name]
    inputs = case.draw(3)
    network = NoisyNetwork(case.make(), *inputs)
    theta = {family: gain.requires_grad_() for family, gain in gains(network.structures, 3).items()}
    leaves = torch.utils._pytree.tree_leaves(network(inputs, theta))
    sum(leaf.square().sum() for leaf in leaves).backward()
    return {
        key: value.grad
        for key, value in (*network.named_parameters(), *theta.items())
        if value.grad is not None
    }


@pytest.mark.parametrize("name", CASES)
def test_gradients_with_products_kept_and_made_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_RECOMPUTED_BYTES", 2**60)
    kept = gradients(name)
    monkeypatch.setattr(gate, "_RECOMPUTED_BYTES", 0)
    again = gradients(name)
    assert kept.keys() == again.keys()
    assert len(kept) > 1
    for key, grad in kept.items():
        assert torch.equal(grad, again[key]), key


def test_gradients_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_RECOMPUTED_BYTES", 0)
    inputs = CASES["mlp"].draw(3)
    network = NoisyNetwork(CASES["mlp"].make(), *inputs)
    theta = gains(network.structures, 3)
    names, values = list(theta), [value.requires_grad_() for value in theta.values()]
    assert torch.autograd.gradgradcheck(
        lambda *gain: network(inputs, dict(zip(names, gain, strict=True))), values, atol=1e-6
    )


def test_a_wide_network_keeps_no_products() -> None:
    net = nn.Sequential(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1))
    network, x = NoisyNetwork(net, torch.zeros(1, 64)), torch.randn(256, 64)
    theta = {s.name: torch.ones(s.size, requires_grad=True) for s in network.structures}
    hidden = 256 * 4096 * 4
    # with its output in hand: of each hidden layer the ReLU's output (and, one at a time, what is multiplied)
    held: list[Tensor] = []
    assert peak_of(lambda: held.append(network(x, theta))) < 3.5 * hidden
    fixed = {name: gain.detach() for name, gain in theta.items()}
    held.clear()
    assert peak_of(lambda: held.append(network(x, fixed))) >= 4 * hidden  # products kept, x not needed


@pytest.mark.parametrize("limit", [0, 2**60])
def test_a_weight_changed_before_the_backward_pass_is_noticed(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_RECOMPUTED_BYTES", limit)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    network = NoisyNetwork(net, torch.zeros(1, 3))
    theta = {s.name: torch.ones(s.size, requires_grad=True) for s in network.structures}
    out = network(torch.randn(5, 3), theta)
    with torch.no_grad():
        net[2].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_a_reader_leaves_no_hooks_behind(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_RECOMPUTED_BYTES", 0)

    class Refusing(nn.Linear):
        refuses = False

        def forward(self, x: Tensor) -> Tensor:
            if self.refuses:
                raise error("refused")
            return super().forward(x)

    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Refusing(4, 2))
    network, x = NoisyNetwork(net, torch.zeros(1, 3)), torch.randn(5, 3)
    theta = {s.name: torch.ones(s.size, requires_grad=True) for s in network.structures}
    assert theta
    Refusing.refuses = True
    with pytest.raises(error, match="refused"):
        network(x, theta)
    Refusing.refuses = False
    # torch checks saved tensors for changes only where no hooks are
    values, w = torch.ones(3), torch.ones(3, requires_grad=True)
    product = (values * w).sum()
    values.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    assert torch.isfinite(network(x, theta)).all()


def test_the_footprint_leaves_out_views_of_what_was_there() -> None:
    weight = torch.ones(1000)
    assert peak_of(lambda: weight.detach().view(10, 100).t()) == 0
    assert peak_of(lambda: weight.view(10, 100) + 1) == 4000


class Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


def doubled(_: nn.Module, args: tuple[Tensor]) -> None:
    args[0].mul_(2)


def moved(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] + 1,)


@pytest.mark.parametrize("hook", [doubled, moved, None])
def test_readers_that_change_their_input_get_the_same_gradients(
    hook: Callable[[nn.Module, tuple[Tensor]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def weight_gradient(limit: int) -> Tensor:
        monkeypatch.setattr(gate, "_RECOMPUTED_BYTES", limit)
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(3, 40), nn.ReLU(), Doubling(40, 2) if hook is None else nn.Linear(40, 2)
        )
        network = NoisyNetwork(net, torch.zeros(1, 3))
        for _ in range(5):
            if hook is not None:
                net[2].register_forward_pre_hook(hook)
        theta = {s.name: torch.rand(s.size, requires_grad=True) for s in network.structures}
        network(torch.randn(300, 3), theta).square().sum().backward()
        grad = net[2].weight.grad
        assert isinstance(grad, Tensor)
        return grad

    assert torch.equal(weight_gradient(0), weight_gradient(2**60))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        if self.training:
            return checkpoint(self.second, hidden, use_reentrant=self.reentrant)
        return self.second(hidden)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_is_refused_with_gains_and_works_without(reentrant: bool) -> None:
    net = Checkpointed(reentrant)
    network = NoisyNetwork(net, torch.zeros(1, 3)).train()
    x, theta = torch.randn(5, 3), {"theta.first": torch.ones(4, requires_grad=True)}
    out = network(x, theta)
    with pytest.raises(RuntimeError, match="'second' is called again in the backward pass"):
        out.sum().backward()
    net(x).sum().backward()
    assert net.second.weight.grad is not None
