"""Inner neurons of experts that are fused in one tensor: where they are written, and where the layer reads them."""

from __future__ import annotations

__all__ = ["compute_one_by_one_", "expert_sides"]

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from bmrs_pyro.network.layers import Side

# how transformers says which layout the tensors of a layer of experts have
_LAYOUT = {"is_transposed", "is_concatenated", "has_gate", "has_bias"}
_COUNTS = ("intermediate_dim", "intermediate_size")


def expert_sides(layer: nn.Module) -> Iterator[tuple[Side, Sequence[int]]]:
    """Give the places of a layer of fused experts that hold their inner neurons, and the neuron of each channel.

    Neuron c stands for neuron c of all experts, because one tensor has one size for all. Other layers have no such
    places.
    """
    reads = layer._parameters.get("down_proj")
    if not vars(layer).keys() >= _LAYOUT or reads is None or reads.dim() != 3:
        return
    along = 1 if layer.is_transposed else 2
    neurons = reads.shape[along]
    name, times = ("gate_up_proj", 2) if layer.has_gate else ("up_proj", 1)
    written = {name: 3 - along, f"{name}_bias": 1}
    tensors = tuple((one, dim) for one, dim in written.items() if layer._parameters.get(one) is not None)
    order = range(times * neurons)
    channels = [one % neurons if layer.is_concatenated else one // times for one in order]
    yield Side("produce", times * neurons, tensors), channels
    counts = tuple(one for one in _COUNTS if vars(layer).get(one) == neurons)
    yield Side("recur", neurons, (("down_proj", along),), counts), range(neurons)


def compute_one_by_one_(layer: nn.Module) -> None:
    """Let a layer compute one expert after another, if it is one of fused experts; it gets its own configuration."""
    if any(True for _ in expert_sides(layer)):
        own: Any = copy.copy(layer.config)
        own._experts_implementation = "eager"
        layer.config = own
