"""Predicted costs against networks that were really made small, and reachable weights against counting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bmrs_pyro.network import NoisyNetwork, compact, complexity, cost_model, reachable
from tests.network.networks import Mobile, Transformer, lenet5, masks, mlp, residual

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (6,)),
    "lenet5": (lenet5, (1, 32, 32)),
    "residual": (residual, (2, 8, 8)),
    "grouped": (Mobile, (2, 8, 8)),
}


def noisy(name: str) -> NoisyNetwork:
    make, shape = NETWORKS[name]
    return NoisyNetwork(make().eval(), torch.randn(3, *shape))


@pytest.mark.parametrize("cost", ["parameters", "macs"])
@pytest.mark.parametrize("name", NETWORKS)
def test_cost_is_that_of_the_small_network(name: str, cost: str) -> None:
    network = noisy(name)
    model = cost_model(network, cost)
    for share in (0.0, 0.3, 0.7):
        keep = masks(network.structures, share)
        small = compact(network, keep)
        counts = {family: int(mask.sum()) for family, mask in keep.items()}
        assert model(counts) == getattr(complexity(small, *network.example_inputs), cost)


@pytest.mark.parametrize("cost", ["parameters", "macs"])
@pytest.mark.parametrize("name", NETWORKS)
def test_marginal_cost_is_the_central_difference(name: str, cost: str) -> None:
    network = noisy(name)
    model = cost_model(network, cost)
    counts = {family.name: family.size - 1 for family in network.structures}
    for family, marginal in model.marginal(counts).items():
        more, less = ({**counts, family: counts[family] + step} for step in (1, -1))
        assert marginal == pytest.approx((model(more) - model(less)) / 2)  # exact: the cost is quadratic


def test_unknown_cost_is_named() -> None:
    with pytest.raises(ValueError, match="'seconds'; use 'parameters' or 'macs'"):
        cost_model(noisy("mlp"), "seconds")


def test_reachable_weights_are_those_that_change_when_all_structures_do() -> None:
    net = Transformer().eval()
    found = NoisyNetwork(net, torch.randn(2, 7, 5)).structures
    touched = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in net.named_parameters()}
    for family in found:
        for member in family.members:
            for name, dim in member.tensors:
                touched[name].index_fill_(dim, member.positions, True)
    assert reachable(net, found) == sum(int(mask.sum()) for mask in touched.values())
    assert reachable(net, []) == 0
