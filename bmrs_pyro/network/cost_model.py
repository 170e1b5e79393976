"""What a network would cost with fewer structures, without building it."""

from __future__ import annotations

__all__ = ["CostModel", "cost_model"]

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bmrs_pyro.network.complexity import complexity, macs_per_weight
from bmrs_pyro.network.noisy import NoisyNetwork


@dataclass(frozen=True)
class CostModel:
    """Cost as a function of the numbers n of structures left in the F families.

    A weight is as long along its outputs, and along its inputs, as the structures there make it:
    cost(n) = c₀ + Σ_t d_t (A_t n + a_t)(B_t n + b_t) over the weights t.

    Attributes:
        families: names of the families, in the order of n.
        constant: c₀, the cost of what no structure is part of.
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
        """Return what one structure of each family costs, ∂cost/∂n."""
        outputs, inputs = self._lengths(counts)
        both = (self.density * inputs) @ self.slopes[0] + (self.density * outputs) @ self.slopes[1]
        return dict(zip(self.families, both.tolist(), strict=True))

    def _lengths(self, counts: Mapping[str, int]) -> Tensor:
        n = torch.tensor([float(counts[name]) for name in self.families], dtype=torch.float64)
        return self.slopes @ n + self.offsets


def cost_model(network: NoisyNetwork, cost: str = "parameters") -> CostModel:
    """Return the cost of a network as a function of how many structures are left.

    Exact where the structures of a family hold equally many channels, as all do but those of irregular
    concatenations. The products of attention that hold no weights count as constant.

    Args:
        network: the network with gains.
        cost: ``"parameters"``, or ``"macs"`` of the example inputs, all examples together.

    Raises:
        ValueError: the cost is unknown.
    """
    if cost not in ("parameters", "macs"):
        raise ValueError(f"cost is {cost!r}; use 'parameters' or 'macs'")
    macs = macs_per_weight(network) if cost == "macs" else None
    families = tuple(family.name for family in network.structures)
    slopes: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for index, family in enumerate(network.structures):
        for member in family.members:
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
    model = CostModel(
        families,
        0.0,
        torch.tensor(density, dtype=torch.float64),
        torch.stack(rows, 1),
        torch.stack(offsets, 1),
    )
    whole = complexity(network).parameters if macs is None else complexity(network).macs
    covered = model({family.name: family.size for family in network.structures})
    return CostModel(families, whole - covered, model.density, model.slopes, model.offsets)
