"""The dense network of a run with gains, for the structures that recorded masks are of."""

from __future__ import annotations

__all__ = ["gained"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bmrs_pyro.network import NoisyNetwork, find_structures
from bmrs_pyro.network.inputs import arguments


def gained(net: nn.Module, example: Any, keep: Mapping[str, Tensor] | None, *, trained: bool) -> NoisyNetwork:
    """Return a network with gains.

    Args:
        net: the network, to which hooks are added.
        example: inputs of one example.
        keep: recorded masks; None if there are none yet. Those of fitted networks, and of trained ones by earlier
            versions, are of whole attention heads.
        trained: whether a trained network was reduced, or this is not known.
    """
    inputs = arguments(example)
    found = find_structures(net, *inputs, trained=trained)
    if trained and any(len(keep[one.name]) != one.size for one in found if keep and one.name in keep):
        found = find_structures(net, *inputs)
    return NoisyNetwork(net, *inputs, structures=found)
