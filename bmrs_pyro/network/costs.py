"""The cost of a network, each structure family's share of it, and the cost with fewer structures."""

from __future__ import annotations

__all__ = [
    "Complexity",
    "CostModel",
    "complexity",
    "cost_model",
    "cost_shares",
    "macs_per_weight",
    "reachable",
]

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bmrs_pyro.network.experts import expert_sides
from bmrs_pyro.network.explicit_attention import make_explicit_
from bmrs_pyro.network.inputs import Call, batch_size
from bmrs_pyro.network.noisy import NoisyNetwork
from bmrs_pyro.network.structures import StructureFamily
from bmrs_pyro.network.untouched import modes_kept, random_state_kept, shared_copy


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
    """
    if isinstance(net, NoisyNetwork):
        return complexity(net.net, *(example_inputs or net.example_inputs))
    tensors = [*net.parameters(), *net.buffers()]
    counter, examples = _counted(net, example_inputs)
    return Complexity(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        macs=counter.get_total_flops() // (2 * examples),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


def cost_shares(network: NoisyNetwork, cost: str = "parameters") -> dict[str, float]:
    """Return the share of each family's producers and consumers in the cost of all families; shares sum to 1.

    A weight that reads one family and produces another counts for both.

    Args:
        network: the network with gains.
        cost: what counts, ``"parameters"`` or ``"macs"``.

    Raises:
        ValueError: the cost is unknown.
    """
    if cost not in ("parameters", "macs"):
        raise ValueError(f"cost is {cost!r}; use 'parameters' or 'macs'")
    state = network.net.state_dict()
    densities = macs_per_weight(network) if cost == "macs" else None
    costs = {}
    for family in network.structures:
        costs[family.name] = sum(
            state[name].numel()
            * (len(member.positions) / member.size)
            * (1.0 if densities is None else densities.get(name, 0.0))
            for member in family.members
            for name, _ in member.tensors
            if state[name].is_floating_point() and not name.endswith(("running_mean", "running_var"))
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
    differ. The products of attention, which have no weights, count as constant.

    Args:
        network: the network with gains.
        cost: ``"parameters"``, or ``"macs"`` for one example.

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


def macs_per_weight(network: NoisyNetwork) -> Mapping[str, float]:
    """Return the number of multiply-accumulates per example that each entry of a layer's weight takes part in."""
    counter, examples = _counted(network.net, network.example_inputs)
    counts = counter.get_flop_counts()
    root = type(network.net).__name__
    found: dict[str, float] = {}
    for name, module in network.net.named_modules():
        weights = _multiplied(module)
        entries = sum(weight.numel() for weight in weights.values())
        if f"{root}.{name}" in counts and entries:
            each = sum(counts[f"{root}.{name}"].values()) / (2 * examples * entries)
            found |= {f"{name}.{weight}": each for weight in weights}
    return found


def _multiplied(layer: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a layer that multiply what it reads, by name."""
    tensors = dict(layer.named_parameters(recurse=False))
    if isinstance(layer, nn.RNNBase):
        return {name: weight for name, weight in tensors.items() if weight.dim() > 1}
    if any(True for _ in expert_sides(layer)):
        return {name: weight for name, weight in tensors.items() if weight.dim() > 2}
    weight = getattr(layer, "weight", None)
    return {"weight": weight} if isinstance(weight, Tensor) else {}


def _step_by_step(x: torch.Size, *weights: torch.Size) -> int:
    """Return the operations of a recurrent layer: its matrices times every step of every example."""
    return 2 * math.prod(x[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) > 1)


# recurrent layers as a whole, where torch has them as one operation, and fused experts, of which each row has one
_WHOLE_LAYERS = {
    torch.ops.aten.mkldnn_rnn_layer: lambda x, w_x, w_h, *_, **__: _step_by_step(x, w_x, w_h),
    torch.ops.aten._cudnn_rnn: lambda x, weights, *_, **__: _step_by_step(x, *weights),
    torch.ops.aten._grouped_mm: lambda x, weights, *_, **__: 2 * math.prod(x) * weights[-1],
}


def _counted(net: nn.Module, inputs: tuple[Any, ...]) -> tuple[FlopCounterMode, int]:
    """Run the network on its inputs; return the counter, and the number of examples that it counted."""
    if not inputs:
        raise ValueError("no example inputs to count multiply-accumulates with; give the network's inputs")
    examples = batch_size(inputs)
    if examples == 0:
        raise ValueError("the example inputs hold no example: dimension 0 of the first one, the batch, is 0")
    call = Call.of(net, inputs)
    like = next((weight for weight in net.parameters() if weight.is_floating_point()), None)
    if like is not None:  # the network may have moved since it was given its inputs
        call = call.map(lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype))
    counter = FlopCounterMode(display=False, custom_mapping=_WHOLE_LAYERS)
    fused = torch.backends.mha.get_fastpath_enabled()
    with modes_kept(net), random_state_kept(net), torch.no_grad(), counter:
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # the counter cannot see into fused layers
            call.fresh(net.eval())
        except (TypeError, RuntimeError) as error:
            raise ValueError(
                f"the network does not run on the example inputs ({call}): {type(error).__name__}: {error}"
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
    return counter, examples or 1
