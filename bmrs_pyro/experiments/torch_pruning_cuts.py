"""What torch-pruning makes of a network for a budget; needs ``pip install 'bmrs-pyro[compare]'``."""

from __future__ import annotations

__all__ = ["IMPORTANCES", "cut"]

import copy
import itertools
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.network import complexity
from bmrs_pyro.training.loop import Batches

IMPORTANCES: dict[str, Callable[[Any], Any]] = {
    # the norm of a filter, of all weights of a group, of batch norm's factor; the loss's first-order change
    "magnitude": lambda tp: tp.importance.MagnitudeImportance(p=2, group_reduction="first"),
    "group-norm": lambda tp: tp.importance.MagnitudeImportance(p=2),
    "bn-scale": lambda tp: tp.importance.BNScaleImportance(),
    "taylor": lambda tp: tp.importance.TaylorImportance(),
    "lamp": lambda tp: tp.importance.LAMPImportance(p=2),
    "random": lambda tp: tp.importance.RandomImportance(),
}
"""torch-pruning's importances by name, made from its module."""

_HALVINGS = 12


def cut(
    net: nn.Module,
    example: Tensor,
    importance: str,
    macs: float,
    *,
    local: bool,
    train: Batches,
    batches: int,
) -> nn.Module:
    """Return a network cut to a number of multiply-accumulates, by the smallest pruning ratio that fits.

    Args:
        net: the network, which stays as it is; its last linear layer is not cut.
        example: an input.
        importance: a name of :data:`IMPORTANCES`.
        macs: most multiply-accumulates for one example.
        local: the same share of every layer, instead of a ranking over all of them.
        train: batches that gradients are taken from, where the importance is made of them.
        batches: how many.

    Raises:
        ValueError: no ratio fits.
    """
    torch_pruning = import_module("torch_pruning")
    gradients = _gradients(net, train, batches) if importance == "taylor" else {}
    last = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1]

    def at(ratio: float) -> nn.Module:
        small = copy.deepcopy(net)
        for name, weight in small.named_parameters():
            weight.grad = gradients[name].clone() if name in gradients else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.pruner.BasePruner(
                small,
                example,
                importance=IMPORTANCES[importance](torch_pruning),
                global_pruning=not local,
                pruning_ratio=ratio,
                ignored_layers=[small.get_submodule(last)],
            ).step()
        for weight in small.parameters():
            weight.grad = None
        return small

    low, high, found = 0.0, 1.0, None
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        state = torch.get_rng_state()
        small = at(ratio)
        torch.set_rng_state(state)
        if complexity(small, example).macs <= macs:
            high, found = ratio, small
        else:
            low = ratio
    if found is None:
        raise ValueError(f"torch-pruning meets no budget of {macs:,.0f} multiply-accumulates")
    return found


def _gradients(net: nn.Module, train: Batches, batches: int) -> dict[str, Tensor]:
    """Return the gradients of the cross-entropy over some batches, summed, in evaluation mode."""
    net = copy.deepcopy(net).eval()
    for x, y in itertools.islice(train, batches):
        nn.functional.cross_entropy(net(x), y).backward()
    return {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
