"""Products without weights, such as those of attention: how many of them leave with each structure."""

from __future__ import annotations

__all__ = ["macs_of_products"]

from collections import defaultdict
from collections.abc import Collection
from itertools import zip_longest

import torch
from torch import nn

from bmrs_pyro.network.compaction import compact
from bmrs_pyro.network.counting import MacCount, enclosing, multiplied
from bmrs_pyro.network.noisy import NoisyNetwork
from bmrs_pyro.network.structures import StructureFamily


def macs_of_products(network: NoisyNetwork, count: MacCount) -> dict[str, float]:
    """Return the multiply-accumulates per example of q kᵀ and a v, and of products like them, of each family.

    They are in proportion to the number of structures, such as heads, so they are measured once: on copies whose
    families have one structure each. Families whose layers lie in the same module are measured one after the other, all
    others at once.

    Args:
        network: the network with gains.
        count: the present multiply-accumulates.
    """
    families = network.structures
    if any(family.name not in network.products_of_one for family in families):
        network.products_of_one |= dict.fromkeys((family.name for family in families), 0.0)
        if count.products[""] > 0:
            network.products_of_one |= _measured(network, count)
    return {family.name: family.size * network.products_of_one[family.name] for family in families}


def _measured(network: NoisyNetwork, count: MacCount) -> dict[str, float]:
    """Return the products of one structure of each family that has some."""
    homes: dict[str, list[StructureFamily]] = defaultdict(list)
    for family in network.structures:
        if family.size > 1:
            homes[_home(family, count)].append(family)
    before, found = _own(homes, count), dict[str, float]()
    some = {home: families for home, families in homes.items() if before[home] > 0}
    for group in zip_longest(*some.values()):
        cut = [family for family in group if family is not None]
        small = compact(network, {family.name: torch.arange(family.size) < 1 for family in cut})
        after = _own(homes, MacCount.of(small, network.example_inputs))
        for home, family in zip(some, group, strict=True):
            if family is not None:
                found[family.name] = max(0.0, before[home] - after[home]) / (family.size - 1)
    return found


def _own(homes: Collection[str], count: MacCount) -> dict[str, float]:
    """Return the products in each of some modules, without those in the others inside it."""
    found = {home: count.products[home] for home in homes}
    for home in homes:
        above = next((module for module in enclosing(home) if module in found), None)
        if above is not None:
            found[above] -= count.products[home]
    return found


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
