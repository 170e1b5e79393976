"""Hidden units of recurrent layers: where they are written, and where the layer itself reads them."""

from __future__ import annotations

__all__ = ["hidden_outputs", "hidden_sides", "initial_states", "lay_out_"]

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bmrs_pyro.network.layers import Side, output_side
from bmrs_pyro.network.nested import map_leaves, tensors_in


def hidden_sides(layer: nn.RNNBase) -> Iterator[tuple[Side, int]]:
    """Give the places of a layer that hold its hidden units, and how often they come one after another there.

    Unit c stands for unit c of all stacked layers and of both directions, for the layer has one size for all.
    """
    written = output_side(layer)
    assert written is not None
    yield written, written.size // layer.hidden_size
    if layer.proj_size:
        return  # others are read
    again = tuple((name, 1) for name, _ in written.tensors if name.startswith("weight_hh"))
    yield Side("recur", layer.hidden_size, again, ("hidden_size",)), 1
    above = tuple(
        (name, 1)
        for name, _ in written.tensors
        if name.startswith("weight_ih") and not name.startswith("weight_ih_l0")
    )
    if above:
        directions = 1 + layer.bidirectional
        yield Side("recur", directions * layer.hidden_size, above), directions


def initial_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the initial states that a layer is called with."""
    return tensors_in((args[1:], kwargs.get("hx")))


def hidden_outputs(outputs: Any, begin: Callable[[Tensor], Tensor]) -> Any:
    """Return a layer's outputs with a function of every tensor of hidden units in its place."""
    sequence, states = outputs
    packed = isinstance(sequence, PackedSequence)
    begun = sequence._replace(data=begin(sequence.data)) if packed else begin(sequence)
    return begun, map_leaves(begin, states)


def lay_out_(net: nn.Module) -> None:
    """Put the weights of each recurrent layer side by side again, as GPUs read them, after some were replaced."""
    for module in net.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
