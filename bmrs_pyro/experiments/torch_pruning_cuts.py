"""What torch-pruning makes of a network for a budget; needs ``pip install 'bmrs-pyro[compare]'``."""

from __future__ import annotations

__all__ = ["CUTS", "EVIDENCE", "IMPORTANCES", "SHARE", "BudgetMissed", "cut", "trained_on"]

import copy
import itertools
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.network import complexity
from bmrs_pyro.training import PlainSteps, reestimate_batch_norm_
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

CUTS, SHARE, EVIDENCE = 10, 0.2, 8
"""Iterative cuts, the share of the steps in which they are made, and batches that gradients are taken from."""

_HALVINGS = 12


class BudgetMissed(ValueError):
    """No pruning ratio meets a budget."""


def trained_on(
    net: nn.Module,
    example: Tensor,
    contender: str,
    budget: float,
    still: Batches,
    begin: Callable[[nn.Module], PlainSteps],
    *,
    cost: str = "macs",
) -> nn.Module:
    """Return a network cut to a budget and trained on.

    Args:
        net: the network; trained in place if it is not cut.
        example: an input.
        contender: a name of :data:`IMPORTANCES` for one cut, with ``-local`` for the same share of every layer, with
            ``-iterative`` for ten cuts in the first fifth of the steps; or ``dense`` for none.
        budget: the most that the network may cost.
        still: batches for gradients and batch-norm statistics.
        begin: begins the training of a network; cuts do not begin it anew.
        cost: what is limited, ``macs`` or ``parameters``.
    """
    name, _, kind = contender.rpartition("-")
    if kind not in ("local", "iterative"):
        name, kind = contender, ""
    cuts = 0 if contender == "dense" else CUTS if kind == "iterative" else 1
    whole, steps = getattr(complexity(net, example), cost), begin(net)
    for number in range(1, cuts + 1):
        most = budget if number == cuts else whole * (budget / whole) ** (number / cuts)
        small = cut(steps.net.eval(), example, name, most, local=kind == "local", train=still, cost=cost)
        after = begin(small)
        after.batches, after.done, steps = steps.batches, steps.done, after
        if cuts > 1:
            steps.make(round(steps.total * SHARE * number / cuts))
            if not steps.total:
                reestimate_batch_norm_(steps.net, still, EVIDENCE)
    steps.make(steps.total)
    return steps.net


def cut(
    net: nn.Module,
    example: Tensor,
    importance: str,
    budget: float,
    *,
    local: bool,
    train: Batches,
    cost: str,
) -> nn.Module:
    """Return a network cut to a budget, by the smallest pruning ratio that fits; attention loses whole heads.

    Args:
        net: the network, which stays as it is; its last linear layer is not cut.
        example: an input.
        importance: a name of :data:`IMPORTANCES`.
        budget: the most that the network may cost.
        local: the same share of every layer, instead of a ranking over all of them.
        train: batches that gradients are taken from, where the importance is made of them.
        cost: what is limited, ``macs`` for one example or ``parameters``.

    Raises:
        BudgetMissed: no ratio fits.
    """
    torch_pruning = import_module("torch_pruning")
    gradients = _gradients(net, train) if importance == "taylor" else {}
    last = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1]

    def at(ratio: float) -> nn.Module:
        small = copy.deepcopy(net)
        for name, weight in small.named_parameters():
            weight.grad = gradients[name].clone() if name in gradients else None
        attentions: list[Any] = [module for module in small.modules() if hasattr(module, "num_heads")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = torch_pruning.pruner.BasePruner(
                small,
                example,
                importance=IMPORTANCES[importance](torch_pruning),
                global_pruning=not local,
                pruning_ratio=ratio,
                ignored_layers=[small.get_submodule(last)],
                num_heads={
                    layer: each.num_heads
                    for each in attentions
                    for layer in (each.query, each.key, each.value)
                },
                prune_num_heads=True,
                head_pruning_ratio=min(
                    [ratio, *(1 - 1 / each.num_heads for each in attentions)]
                ),  # one is left
            )
            pruner.step()
        for each in attentions:
            each.num_heads = pruner.num_heads[each.query]
        for weight in small.parameters():
            weight.grad = None
        return small

    low, high, found = 0.0, 1.0, None
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        state = torch.get_rng_state()
        small = at(ratio)
        torch.set_rng_state(state)
        if getattr(complexity(small, example), cost) <= budget:
            high, found = ratio, small
        else:
            low = ratio
    if found is None:
        raise BudgetMissed(f"torch-pruning meets no budget of {budget:,.0f} {cost}")
    return found


def _gradients(net: nn.Module, train: Batches) -> dict[str, Tensor]:
    """Return the gradients of the cross-entropy over some batches, summed, in evaluation mode."""
    net = copy.deepcopy(net).eval()
    for x, y in itertools.islice(train, EVIDENCE):
        nn.functional.cross_entropy(net(x), y).backward()
    return {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
