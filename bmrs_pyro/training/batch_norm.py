"""Batch-norm statistics, estimated anew."""

from __future__ import annotations

__all__ = ["reestimate_batch_norm_"]

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bmrs_pyro.inference.inputs import on_device_of, outputs_of
from bmrs_pyro.network.untouched import modes_kept


@torch.no_grad()
def reestimate_batch_norm_(net: nn.Module, batches: Iterable[Any], limit: int = 100) -> None:
    """Replace the running statistics of every batch norm by the averages over some batches, in place.

    Training with random gains, and removing structures, shifts what the layers see; the statistics gathered on the
    way are of other networks than the one that is left.

    Args:
        net: the network; its layers other than batch norms run in evaluation mode meanwhile.
        batches: as :func:`fit` takes them; inputs are moved to the network's device, labels are not used.
        limit: number of batches that suffice.

    Raises:
        ValueError: there are no batches; the network is as it was.
    """
    norms = [
        module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    rest = islice(on_device_of(net, batches), limit)
    first = next(rest, None)
    if first is None:
        raise ValueError("there are no batches to estimate batch-norm statistics from; give one at least")
    momenta = [norm.momentum for norm in norms]
    with modes_kept(net):
        net.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over batches
            norm.train()
        try:
            for x, _ in chain([first], rest):
                outputs_of(net, x)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
