"""The products of attention, which have no weights: how many of them leave with each head."""

from __future__ import annotations

__all__ = ["macs_of_heads"]

from collections import defaultdict
from itertools import zip_longest

import torch
from torch import nn

from bmrs_pyro.network.compaction import compact
from bmrs_pyro.network.counting import MacCount, multiplied
from bmrs_pyro.network.noisy import NoisyNetwork
from bmrs_pyro.network.structures import StructureFamily


def macs_of_heads(network: NoisyNetwork, count: MacCount) -> dict[str, float]:
    """Return the multiply-accumulates per example of q kᵀ and a v of each family of heads.

    They are in proportion to the number of heads, so they are measured once: on copies whose families have one head
    each. Families whose layers lie in the same module are measured one after the other, all others at once.

    Args:
        network: the network with gains.
        count: the present multiply-accumulates.
    """
    heads = {family.name: family for family in network.structures if family.kind == "heads"}
    if not heads.keys() <= network.macs_of_head.keys():
        network.macs_of_head |= _measured(network, count, list(heads.values()))
    return {name: family.size * network.macs_of_head[name] for name, family in heads.items()}


def _measured(network: NoisyNetwork, count: MacCount, heads: list[StructureFamily]) -> dict[str, float]:
    """Return the products of one head of each family."""
    homes: dict[str, list[StructureFamily]] = defaultdict(list)
    for family in heads:
        homes[_home(family, count)].append(family)
    found: dict[str, float] = {}
    for group in zip_longest(*homes.values()):
        cut = [family for family in group if family is not None]
        small = compact(network, {family.name: torch.arange(family.size) < 1 for family in cut})
        after = MacCount.of(small, network.example_inputs)
        left = {home: count.products(home) - after.products(home) for home in homes}
        for home, family in zip(homes, group, strict=True):
            if family is not None and family.size > 1:
                own = left[home] - sum(left[other] for other in _directly_inside(home, homes))
                found[family.name] = max(0.0, own) / (family.size - 1)
    return dict.fromkeys((family.name for family in heads), 0.0) | found


def _home(family: StructureFamily, count: MacCount) -> str:
    """Return the name of the smallest module that is called and holds all layers of a family."""
    paths = [member.module.split(".") for member in family.members]
    shared = 0
    while all(len(path) > shared and path[shared] == paths[0][shared] for path in paths):
        shared += 1

    def unfit(name: str) -> bool:
        layer: nn.Module = count.net.get_submodule(name)
        return name not in count.by_module or bool(multiplied(layer))

    while shared and unfit(".".join(paths[0][:shared])):
        shared -= 1
    return ".".join(paths[0][:shared])


def _directly_inside(home: str, homes: dict[str, list[StructureFamily]]) -> list[str]:
    """Return the homes inside another one that lie in no third one between them."""
    inner = [other for other in homes if other != home and lies_in(other, home)]
    return [one for one in inner if not any(one != other and lies_in(one, other) for other in inner)]


def lies_in(name: str, module: str) -> bool:
    """Whether a module is, or lies in, another one."""
    return not module or name == module or name.startswith(f"{module}.")
