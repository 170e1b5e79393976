"""What a network costs, and what each structure family has of it."""

from __future__ import annotations

__all__ = ["Complexity", "complexity", "cost_shares", "macs_per_weight"]

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bmrs_pyro.network.noisy import NoisyNetwork
from bmrs_pyro.network.untouched import modes_kept, random_state_kept


@dataclass(frozen=True)
class Complexity:
    """What a network costs.

    Attributes:
        parameters: number of weights; tied ones count once.
        macs: multiply-accumulates of one evaluation of the example inputs, all examples together.
        bytes: of parameters and buffers.
    """

    parameters: int
    macs: int
    bytes: int


def complexity(net: nn.Module, *example_inputs: Tensor) -> Complexity:
    """Count parameters, multiply-accumulates (matrix products, convolutions, attention) and bytes.

    Args:
        net: a network, or one with gains, of which the wrapped network counts.
        *example_inputs: its inputs, on any device and in any precision; a NoisyNetwork has its own.
    """
    if isinstance(net, NoisyNetwork):
        return complexity(net.net, *(example_inputs or net.example_inputs))
    tensors = [*net.parameters(), *net.buffers()]
    return Complexity(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        macs=_macs(net, example_inputs).get_total_flops() // 2,
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


def cost_shares(network: NoisyNetwork, cost: str = "parameters") -> dict[str, float]:
    """Return each family's share, of all families' cost, in its writers and readers; they sum to 1.

    A weight that is written by one family and read by another counts for both.

    Args:
        network: the network with gains.
        cost: what counts, ``"parameters"`` or ``"macs"`` (of the example inputs).

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


def macs_per_weight(network: NoisyNetwork) -> Mapping[str, float]:
    """Return how many multiply-accumulates of the example inputs each entry of a layer's weight takes part in."""
    counts = _macs(network.net, network.example_inputs).get_flop_counts()
    root = type(network.net).__name__
    return {
        f"{name}.weight": sum(counts[f"{root}.{name}"].values()) / 2 / module.weight.numel()
        for name, module in network.net.named_modules()
        if f"{root}.{name}" in counts and isinstance(getattr(module, "weight", None), Tensor)
    }


def _macs(net: nn.Module, inputs: tuple[Tensor, ...]) -> FlopCounterMode:
    if not inputs:
        raise ValueError("no example inputs to count multiply-accumulates with; give the network's inputs")
    like = next((weight for weight in net.parameters() if weight.is_floating_point()), None)
    if like is not None:  # the network may have moved since it was given its inputs
        inputs = tuple(x.to(like.device, like.dtype if x.is_floating_point() else x.dtype) for x in inputs)
    counter = FlopCounterMode(display=False)
    with modes_kept(net), random_state_kept(net), torch.no_grad(), counter:
        net.eval()(*inputs)
    return counter
