"""Re-estimation of batch-norm statistics."""

from __future__ import annotations

__all__ = ["lone_example", "reestimate_batch_norm_"]

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bmrs_pyro.inference.inputs import on_device_of, outputs_of
from bmrs_pyro.network.untouched import modes_kept


def lone_example(error: Exception) -> str | None:
    """Say what to do if batch norm has refused a batch in training because it is one example; else None."""
    if "more than 1 value per channel" not in str(error):
        return None
    return (
        "a batch of one example, of which batch norm has no variance: give the loader drop_last=True, or another batch "
        "size"
    )


@torch.no_grad()
def reestimate_batch_norm_(net: nn.Module, batches: Iterable[Any], limit: int = 100) -> None:
    """Replace the running statistics of every batch norm by the averages over some batches, in place.

    Random gains and the removal of structures change the layers' inputs. The running statistics from training
    therefore do not fit the final network. Batch norms that the network's own ``train()`` leaves in evaluation mode are
    frozen, and keep their statistics.

    Args:
        net: the network; its other layers run in evaluation mode here.
        batches: batches as for :func:`fit`; inputs are moved to the network's device, labels are not used.
        limit: largest number of batches to use.

    Raises:
        ValueError: there are no batches; the network is not changed.
    """
    with modes_kept(net):
        net.train()  # a network may keep some in evaluation mode
        norms = [
            module
            for module in net.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats and module.training
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
        except ValueError as error:
            if lone := lone_example(error):
                raise ValueError(lone) from None
            raise
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
