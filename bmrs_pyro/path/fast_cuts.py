"""The budget of multiply-accumulates with which a trained network is fast enough, found by trial cuts."""

from __future__ import annotations

__all__ = ["macs_within"]

import math
from bisect import bisect_left
from dataclasses import replace

import torch
from torch import nn

from bmrs_pyro.network import compact, cost_model
from bmrs_pyro.path.regularisation import Path
from bmrs_pyro.path.target import Target, TargetMissed
from bmrs_pyro.reduction import JointScores, KeepMask
from bmrs_pyro.training.limits import Limits

STEP = 0.95
"""Share of the multiply-accumulates that each trial cut keeps of the one before."""


def macs_within(path: Path, target: Target, limits: Limits, loss: JointScores) -> int:
    """Return the most multiply-accumulates with which the network takes no longer than the target's latency.

    The network is cut once, in small steps, and some of the networks on the way are measured. They are not trained,
    because the time depends on their sizes alone.

    Args:
        path: a path before any reduction.
        target: a target with a latency.
        limits: the target's budgets, and multiples.
        loss: the loss from removing structures, by which the cuts choose.

    Raises:
        TargetMissed: the smallest network takes longer.
    """
    network = path.trainee.model.network
    most, (least, _) = min(limits.max_macs or path.dense.macs, path.dense.macs), limits.least(network)
    budgets = [most]
    while budgets[-1] > least:
        budgets.append(max(least, int(STEP * budgets[-1])))
    keep = KeepMask({family.name: torch.ones(family.size, dtype=torch.bool) for family in network.structures})
    cuts = []
    for budget in budgets:
        keep = replace(limits, max_macs=budget).applied(network, keep, loss)
        cuts.append(keep)

    def small(cut: KeepMask) -> nn.Module:
        return compact(network, cut).eval()

    first = bisect_left(cuts, True, key=lambda cut: target.times(path, small(cut)).within(target.max_latency))
    if first < len(cuts):
        left = {name: int(mask.sum()) for name, mask in cuts[first].items()}
        return math.ceil(cost_model(network, "macs")(left))
    smallest = small(cuts[-1])
    raise TargetMissed(
        f"no network is fast enough. The smallest has {sum(w.numel() for w in smallest.parameters()):,} parameters "
        f"and takes {target.times(path, smallest)}: allow that"
    )
