"""Whether each row that a gate multiplies is an example of the batch, so that examples can have separate gains."""

from __future__ import annotations

__all__ = ["MOST_UNDECIDED", "Doubt", "Rows", "tried_rows"]

from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import nn

from bmrs_pyro.network.generators import generators_kept
from bmrs_pyro.network.inputs import Call, in_single_
from bmrs_pyro.network.row_trial import Inputs, MixedRows, RowsUndecided, RowTrial, first_line
from bmrs_pyro.network.untouched import shared_copy

MOST_UNDECIDED = 3
"""Calls with inputs that decide nothing, after which rows are not tried any more."""


class Doubt(NamedTuple):
    """Why the examples of a batch cannot have separate gains."""

    reason: str
    proven: bool
    """True if a row was found that is not its example; False if the check could not find the examples."""


class Rows(NamedTuple):
    """What a trial of a network's rows found."""

    doubt: Doubt | None
    """Why the examples of a batch cannot have gains of their own; None where they can."""
    read: int
    """How many numbers of one example gates multiply; 0 where that was not seen."""


def tried_rows(network: Any, x: Inputs, batch: int) -> Rows:
    """Check whether the examples of a batch can have separate gains.

    A gate multiplies row i of a layer's input by the gains of example i. That is right if a permutation P of the
    examples and their gains permutes the rows at every gate, and the output, in the same way: f(P x, P θ) = P f(x, θ).
    A copy in evaluation mode is tested with a batch size that no other dimension of a gate's input has, with every
    size below ``batch`` that another dimension has, and with ``batch`` itself. Networks whose examples interact, by
    batch statistics or attention over the batch, pass as long as the order does not matter.

    Args:
        network: a NoisyNetwork; neither it nor any random state is changed.
        x: inputs of a batch, any nest of tensors.
        batch: its number of examples. Tensors of this length are cut and permuted, others stay whole.

    Raises:
        RowsUndecided: the network cannot be run on these inputs, or gives no finite numbers.
    """
    with generators_kept(), torch.no_grad():
        try:
            copy = shared_copy(network).eval()
        except RuntimeError as error:  # of deepcopy
            return Rows(Doubt(f"it cannot be copied to try it ({first_line(error)})", False), 0)
        copy.rows_tried = True
        single = shared_copy(copy)
        (own,) = in_single_(single, Call((x,), {})).args
        if own is not x:  # rounding of half precision would hide which row is which
            with suppress(RowsUndecided):
                found = _tried(single, own, batch)
                if found.doubt is None:
                    return found
        return _tried(copy, x, batch)


def _tried(network: Any, x: Inputs, batch: int) -> Rows:
    trial = RowTrial(network, x, batch)
    try:
        reason = trial.reason()
    except MixedRows as found:
        return Rows(Doubt(f"{found}{_batch_second(network)}", True), 0)
    return Rows(None if reason is None else Doubt(reason, False), sum(trial.read.values()))


def _batch_second(network: nn.Module) -> str:
    """Name a layer that takes the batch in the second dimension, and could take it in the first."""
    for name, layer in network.named_modules():
        if getattr(layer, "batch_first", True) is False:
            return f"; layer {name.removeprefix('net.')!r} can take the batch first, with batch_first=True"
    return ""
