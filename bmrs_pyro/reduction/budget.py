"""Limits on top of the evidence: widths that hardware likes, and budgets."""

from __future__ import annotations

__all__ = ["Cost", "rounded", "within_budget"]

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from bmrs_pyro.reduction.keep_mask import KeepMask


class Cost(Protocol):
    """What a network costs, as a function of the number of structures left in each family."""

    def __call__(self, counts: Mapping[str, int]) -> float:
        """The cost."""

    def marginal(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        """What one structure more or less of each family changes."""


def rounded(keep: KeepMask, scores: Mapping[str, Tensor], multiples: Mapping[str, int]) -> KeepMask:
    """Keep the next multiple of structures in every family: back come those with the most evidence.

    Args:
        keep: The selection.
        scores: Scores it was made by, `(C,)` per family; the lowest speak most for keeping.
        multiples: Per family, what the number kept shall be a multiple of. A family that is too small for the
            next multiple stays whole.

    Raises:
        ValueError: A multiple is below 1.
    """
    masks = dict(keep)
    for name, mask in masks.items():
        if multiples[name] < 1:
            raise ValueError(f"{name}: a number of structures cannot be a multiple of {multiples[name]}")
        wanted = -(-int(mask.sum()) // multiples[name]) * multiples[name]
        # a structure that is kept against its score (min_keep) stays ahead of those that are not
        order = scores[name].where(~mask.to(scores[name].device), -float("inf")).argsort(stable=True)
        mask[order[:wanted].cpu()] = True
    return KeepMask(masks)


def within_budget(
    keep: KeepMask,
    scores: Mapping[str, Tensor],
    cost: Cost,
    budget: float,
    *,
    multiples: Mapping[str, int] | None = None,
    min_keep: int = 1,
) -> KeepMask:
    """Keep the structures with the most evidence per cost until a budget is met.

    The evidence for keeping a structure is minus its score. The structures that speak least for themselves, per cost
    of one of their family in what is left of the network, go first; costs are computed anew after each. Structures
    with evidence against them, which `rounded` or `min_keep` have kept, go before all others, by that evidence times
    the cost.

    Args:
        keep: The selection; what it removes stays removed.
        scores: Scores it was made by, `(C,)` per family.
        cost: The cost that the budget limits.
        budget: The most it may be.
        multiples: Per family, how many structures leave at a time, down to a multiple of that number.
        min_keep: Least number of structures a family keeps.

    Raises:
        ValueError: The budget cannot be met.
    """
    masks = dict(keep)
    waiting = {  # strongest evidence first, so that the next to leave is the last
        name: [index for index in scores[name].argsort(stable=True).tolist() if masks[name][index]]
        for name in keep
    }
    counts = {name: len(left) for name, left in waiting.items()}
    while cost(counts) > budget:
        marginal = cost.marginal(counts)
        blocks = {name: _block(counts[name], (multiples or {}).get(name, 1), min_keep) for name in keep}
        worth = {
            name: _worth(-float(scores[name][waiting[name][-size:]].mean()), marginal[name])
            for name, size in blocks.items()
            if size
        }
        if not worth:
            raise ValueError(
                f"a budget of {budget:,.0f} cannot be met: with {min_keep} structures in every family the cost is "
                f"{cost(counts):,.0f}"
            )
        weakest = min(worth, key=lambda name: worth[name])
        for _ in range(blocks[weakest]):
            masks[weakest][waiting[weakest].pop()] = False
        counts[weakest] -= blocks[weakest]
    return KeepMask(masks)


def _worth(evidence: float, cost: float) -> tuple[float, float]:
    """Evidence per cost, or times cost where it is against the structure; what is equal goes by the cost."""
    cost = max(cost, 1e-12)
    return evidence / cost if evidence > 0 else evidence * cost, -cost


def _block(count: int, multiple: int, min_keep: int) -> int:
    """How many structures leave next, so that a multiple is left; 0 where that would leave too few."""
    size = count % multiple or multiple
    return size if count - size >= max(min_keep, 1) else 0
