"""Fold gains into the weights of the layers that read them, and cut out what is not kept."""

from __future__ import annotations

__all__ = ["compact_"]

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from bmrs_pyro.network.gates import Gates
from bmrs_pyro.network.removal import remove_
from bmrs_pyro.network.structures import StructureFamily


def compact_(
    net: nn.Module,
    structures: Sequence[StructureFamily],
    keep: Mapping[str, Tensor],
    theta: Mapping[str, Tensor],
) -> list[StructureFamily]:
    """Compact a network without gates, in place; parameters that lose nothing and read no gain stay untouched.

    Args:
        net: the network, without gates.
        structures: its families.
        keep: mask ``(C,)`` per family, True for what stays; families not named stay whole.
        theta: gains ``(C,)`` per family; those not named are 1.

    Returns:
        The families as they are now.
    """
    removal, left = remove_(net, structures, keep)
    gates = Gates(net, left)
    gates.fold_(net, {name: gain[removal.keep[name].to(gain.device)] for name, gain in theta.items()})
    Gates.detach_(net)
    return left
