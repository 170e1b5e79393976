"""How much of a network its structures make up."""

from __future__ import annotations

__all__ = ["reachable"]

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bmrs_pyro.network.structures import Structure


def reachable(net: nn.Module, structures: Iterable[Structure]) -> int:
    """Count the parameters that belong to at least one structure, and so can leave with it; tied ones once.

    Args:
        net: the network.
        structures: its families, or some of them.
    """
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
