"""Uneven masks: which structures of a family stay when their removal is tried."""

from __future__ import annotations

__all__ = ["STEPS", "TRIALS", "uneven_mask"]

import torch
from torch import Tensor

TRIALS = 3
STEPS = 2
_SMALL = 16


def uneven_mask(size: int, trial: int, step: int, family: int) -> Tensor:
    """Draw the mask ``(C,)`` of a family for one step of a trial; nothing but the arguments decides on it.

    In three trials that follow each other a family gets all three rows, in the order of its number:

    ==================================  ==================================
    first step, of all structures       second step, of those left
    ==================================  ==================================
    all but the first                   all but the last
    a run at the start                  all but the first
    scattered ones                      a single one
    ==================================  ==================================

    What the treatment of a channel owes to its place counted from the start shows when all but the first stay, from
    the end when all but the last do, and as a share of the width when a run does, which is never half.

    Args:
        size: C.
        trial: number of the trial.
        step: 0 or 1.
        family: number of the family in its network.
    """
    if size == 1:
        return torch.ones(1, dtype=torch.bool)
    random = torch.Generator().manual_seed(1 + step + STEPS * (trial + 1000 * family))
    place, row = torch.arange(size), (trial + family) % TRIALS
    first, last = place > 0, place < size - 1
    if row == 0:
        return (first, last)[step]
    if row == 1:
        return (place < _few(size, random), first)[step]
    scattered = torch.randperm(size, generator=random)
    return scattered < (_few(size, random), 1)[step]


def _few(size: int, random: torch.Generator) -> int:
    """Draw how many stay: any number of few structures but half, less than half of many."""
    few = int(torch.randint(1, size // 2 if size > _SMALL else max(size - 1, 2), (), generator=random))
    return few + (2 * few >= size > 2)
