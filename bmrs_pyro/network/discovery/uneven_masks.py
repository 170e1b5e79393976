"""Uneven masks: which structures of a family stay when their removal is tried."""

from __future__ import annotations

__all__ = ["STEPS", "TRIALS", "masks_and_gains", "uneven_mask", "widths_of"]

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.nested import tensors_in
from bmrs_pyro.network.structures import StructureFamily

TRIALS = 3
STEPS = 2
_SMALL = 16
_NORMALISED = 4  # a layer norm over one or two channels puts out constants


def widths_of(net: nn.Module, call: Call) -> list[int]:
    """Return the numbers of channels of a network's weights and inputs, the most frequent first.

    Code such as ``if x.shape == y.shape`` compares them, so families are also cut to these widths.
    """
    inputs = Counter(size for x in tensors_in(tuple(call)) for size in x.shape[1:])
    weights = Counter(size for parameter in net.parameters() for size in parameter.shape[:2])
    return [width for width, _ in (weights + inputs).most_common() if width > 1] or [1]


def uneven_mask(size: int, trial: int, step: int, family: int, width: int | None = None) -> Tensor:
    """Draw the mask ``(C,)`` of a family for one step of a trial; it depends on the arguments only.

    In three consecutive trials a family gets all three rows; its number decides with which it starts:

    ==================================  ==================================
    first step, of all structures       second step, of those left
    ==================================  ==================================
    all but the first                   all but the last
    a run at the start                  all but the first
    scattered ones                      a single one
    ==================================  ==================================

    If channels are treated by their position from the start, keeping all but the first shows it. A position from the
    end shows when all but the last are kept; a position as a share of the width when a run, never half, is kept.

    Args:
        size: C.
        trial: number of the trial.
        step: 0 or 1.
        family: number of the family in its network.
        width: how many scattered ones the first step leaves, of a family that has more.
    """
    if size == 1:
        return torch.ones(1, dtype=torch.bool)
    random = torch.Generator().manual_seed(1 + step + STEPS * (trial + 1000 * family))
    if width is not None and not step and width < size:
        return torch.randperm(size, generator=random) < width
    place, row = torch.arange(size), (trial + family) % TRIALS
    first, last = place > 0, place < size - 1
    if row == 0:
        return (first, last)[step]
    if row == 1:
        return (place < _few(size, random), first)[step]
    scattered = torch.randperm(size, generator=random)
    return scattered < (_few(size, random), 1)[step]


def _few(size: int, random: torch.Generator) -> int:
    """Draw how many stay: of few structures any number but half, of many structures less than half."""
    few = int(torch.randint(1, size // 2 if size > _SMALL else max(size - 1, 2), (), generator=random))
    return few + (2 * few >= size > 2)


def masks_and_gains(
    families: Sequence[StructureFamily],
    numbers: Mapping[str, int],
    place: tuple[int, int, int],
    width: int | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw each family's mask, and gains that keep the size of the consumers' inputs.

    Args:
        families: the families.
        numbers: number of every family by name, so that the same one is always treated alike.
        place: numbers of the trial, the attempt and the step.
        width: how many structures are kept; None keeps few, most or a run of them.
    """
    trial, attempt, step = place
    keep, theta = {}, {}
    for family in families:
        number = numbers[family.name]
        mask = uneven_mask(family.size, trial, step, number, width)
        random = torch.Generator().manual_seed((1000 * trial + attempt) * 10**6 + STEPS * number + step)
        gains = torch.empty(family.size).uniform_(0.5, 1.5, generator=random)
        if family.norms and mask.sum() < _NORMALISED:
            mask[:_NORMALISED] = True
        gains *= mask / mask.float().mean().sqrt()
        keep[family.name] = mask
        theta[family.name] = mask.float() if family.norms else gains  # only 0 and 1 fold into layer norms
    return keep, theta
