"""The cost of a network, each structure family's share of it, and the cost with fewer structures."""

from __future__ import annotations

__all__ = [
    "Complexity",
    "CostModel",
    "complexity",
    "cost_model",
    "cost_shares",
    "reachable",
]

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.network.counting import MacCount
from bmrs_pyro.network.explicit_attention import make_explicit_
from bmrs_pyro.network.noisy import NoisyNetwork
from bmrs_pyro.network.products import macs_of_products
from bmrs_pyro.network.structures import StructureFamily
from bmrs_pyro.network.untouched import shared_copy


@dataclass(frozen=True)
class Complexity:
    """What a network costs.

    Attributes:
        parameters: number of weights; tied ones count once.
        macs: multiply-accumulates for one example.
        bytes: size of the parameters and buffers.
    """

    parameters: int
    macs: int
    bytes: int


def complexity(net: nn.Module, *example_inputs: Any) -> Complexity:
    """Count parameters, multiply-accumulates (matrix products, convolutions, attention) and bytes.

    The example inputs may hold a batch. Dimension 0 of the first input is its size; MACs are per example.

    Args:
        net: a network; for a NoisyNetwork, the network that it wraps is counted.
        *example_inputs: its inputs, as :class:`NoisyNetwork` takes them, on any device and in any precision; a
            NoisyNetwork has its own.

    Raises:
        ValueError: there are no example inputs, they hold no example, or the network does not run on them.
        TypeError: the network is no module.
    """
    if isinstance(net, NoisyNetwork):
        return complexity(net.net, *(example_inputs or net.example_inputs))
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is a {type(net).__name__}; give a network, an nn.Module")
    tensors = [*net.parameters(), *net.buffers()]
    return Complexity(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        macs=MacCount.of(net, example_inputs).total,
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


def cost_shares(network: NoisyNetwork, cost: str = "parameters") -> dict[str, float]:
    """Return the share of each family's producers and consumers in the cost of all families; shares sum to 1.

    A weight that reads one family and produces another counts for both. The products of attention count for its heads.

    Args:
        network: the network with gains.
        cost: what counts, ``"parameters"`` or ``"macs"``.

    Raises:
        ValueError: the cost is unknown.
    """
    if cost not in ("parameters", "macs"):
        raise ValueError(f"cost is {cost!r}; use 'parameters' or 'macs'")
    weights = dict(network.net.named_parameters(remove_duplicate=False))
    count = MacCount.of(network.net, network.example_inputs) if cost == "macs" else None
    densities = None if count is None else count.per_weight()
    products = {} if count is None else macs_of_products(network, count)
    costs = {}
    for family in network.structures:
        costs[family.name] = products.get(family.name, 0.0) + sum(
            weights[name].numel()
            * (len(member.positions) / member.size)
            * (1.0 if densities is None else densities.get(name, 0.0))
            for member in family.members
            for name, _ in member.tensors
            if name in weights and member not in family.queries
        )
    total = sum(costs.values())
    return {name: value / total for name, value in costs.items()}


@dataclass(frozen=True)
class CostModel:
    """Cost as a function of the numbers n of structures left in the F families.

    The lengths of a weight along its outputs and along its inputs are linear in n:
    cost(n) = c₀ + Σ_t d_t (A_t n + a_t)(B_t n + b_t) over the weights t.

    Attributes:
        families: names of the families, in the order of n.
        constant: c₀, the cost of everything that belongs to no structure.
        density: d, ``(T,)``, cost per entry of these two dimensions.
        slopes: A and B, ``(2, T, F)``, channels per structure.
        offsets: a and b, ``(2, T)``, channels that belong to no structure.
    """

    families: tuple[str, ...]
    constant: float
    density: Tensor
    slopes: Tensor
    offsets: Tensor

    def __call__(self, counts: Mapping[str, int]) -> float:
        """Return the cost with ``counts[name]`` structures left in each family."""
        outputs, inputs = self._lengths(counts)
        return self.constant + float(self.density @ (outputs * inputs))

    def marginal(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the cost of one structure of each family, ∂cost/∂n."""
        outputs, inputs = self._lengths(counts)
        both = (self.density * inputs) @ self.slopes[0] + (self.density * outputs) @ self.slopes[1]
        return dict(zip(self.families, both.tolist(), strict=True))

    def _lengths(self, counts: Mapping[str, int]) -> Tensor:
        n = torch.tensor([float(counts[name]) for name in self.families], dtype=torch.float64)
        return self.slopes @ n + self.offsets


def cost_model(network: NoisyNetwork, cost: str = "parameters") -> CostModel:
    """Return the cost of a network as a function of how many structures are left.

    The cost is exact if all structures of a family have the same number of channels; only irregular concatenations
    differ. The products of attention are in proportion to the number of its heads.

    Args:
        network: the network with gains.
        cost: ``"parameters"``, or ``"macs"`` for one example.

    Raises:
        ValueError: the cost is unknown.
    """
    if cost not in ("parameters", "macs"):
        raise ValueError(f"cost is {cost!r}; use 'parameters' or 'macs'")
    count = MacCount.of(network.net, network.example_inputs) if cost == "macs" else None
    macs = None if count is None else count.per_weight()
    families = tuple(family.name for family in network.structures)
    slopes: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for index, family in enumerate(network.structures):
        for member in (one for one in family.members if one not in family.queries):
            for name, dim in member.tensors:
                zeros = torch.zeros(len(families), dtype=torch.float64)
                slopes[name].setdefault(dim, zeros)[index] += len(member.positions) / family.size
    full = torch.tensor([float(family.size) for family in network.structures], dtype=torch.float64)
    density, rows, offsets = [], [], []
    for name, weight in network.net.named_parameters():
        if name not in slopes or (macs is not None and name not in macs):
            continue
        dims = list(slopes[name])
        lengths = [weight.shape[dim] for dim in dims] + [1] * (2 - len(dims))
        row = [slopes[name][dim] for dim in dims] + [torch.zeros_like(full)] * (2 - len(dims))
        other = weight.numel() / (lengths[0] * lengths[1])
        density.append(other * (1.0 if macs is None else macs[name]))
        rows.append(torch.stack(row))
        offsets.append(torch.tensor(lengths, dtype=torch.float64) - torch.stack(row) @ full)
    for name, products in ({} if count is None else macs_of_products(network, count)).items():
        if not products:
            continue
        share = torch.zeros_like(full)
        share[families.index(name)] = 1 / full[families.index(name)]
        density.append(products)
        rows.append(torch.stack([share, torch.zeros_like(full)]))
        offsets.append(torch.tensor([0.0, 1.0], dtype=torch.float64))
    model = CostModel(
        families,
        0.0,
        torch.tensor(density, dtype=torch.float64),
        torch.stack(rows, 1),
        torch.stack(offsets, 1),
    )
    whole = complexity(network).parameters if count is None else count.total
    covered = model({family.name: family.size for family in network.structures})
    return CostModel(families, whole - covered, model.density, model.slopes, model.offsets)


def reachable(net: nn.Module, structures: Iterable[StructureFamily]) -> int:
    """Count the parameters that belong to at least one structure, and so can be removed with it; tied ones once.

    Args:
        net: the network.
        structures: its families, or some of them.
    """
    structures = list(structures)
    if any(isinstance(module, nn.MultiheadAttention) for module in net.modules()):
        net = shared_copy(net)
        make_explicit_(net, {member.module for family in structures for member in family.members})
    held: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for family in structures:
        for member in family.members:
            for name, dim in member.tensors:
                free = held[name].setdefault(dim, torch.ones(member.size, dtype=torch.bool))
                free[member.positions] = False
    return sum(
        weight.numel()
        - math.prod(
            int(held[name][dim].sum()) if dim in held[name] else size for dim, size in enumerate(weight.shape)
        )
        for name, weight in net.named_parameters()
    )
