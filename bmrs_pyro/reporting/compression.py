"""How small a network was after every epoch of a run."""

from __future__ import annotations

__all__ = ["parameters_left"]

from collections import defaultdict
from collections.abc import Mapping

from bmrs_pyro.network import NoisyNetwork


def parameters_left(network: NoisyNetwork, widths: Mapping[str, int]) -> int:
    """Count the parameters a network keeps when only so many structures of every family are left.

    Every structure of a family owns as many channels as the others, so the count needs no cutting: along each
    dimension of a weight, what is removed of the families there is subtracted.

    Args:
        network: the network with all structures.
        widths: structures left by family; families not named stay whole.
    """
    lost: dict[tuple[str, int], float] = defaultdict(float)
    for family in network.structures:
        gone = 1 - widths.get(family.name, family.size) / family.size
        for member in family.members:
            for place in member.tensors:
                lost[place] += gone * len(member.positions) / member.size
    total = 0.0
    for name, weight in network.net.named_parameters():
        count = float(weight.numel())
        for dim in range(weight.dim()):
            count *= 1 - lost[name, dim]
        total += count
    return round(total)
