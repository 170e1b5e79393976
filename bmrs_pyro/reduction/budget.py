"""Limits on top of the evidence: widths in multiples of a number, and cost budgets."""

from __future__ import annotations

__all__ = ["Cost", "rounded", "within_budget"]

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from bmrs_pyro.reduction.keep_mask import KeepMask

JointScores = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Cost(Protocol):
    """What a network costs, as a function of the number of structures left in each family."""

    def __call__(self, counts: Mapping[str, int]) -> float:
        """The cost."""

    def marginal(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        """The change of the cost with one structure more or less, by family."""


def rounded(keep: KeepMask, scores: Mapping[str, Tensor], multiples: Mapping[str, int]) -> KeepMask:
    """Round the number kept in every family up to a multiple; structures with the most evidence come back first.

    Args:
        keep: The selection.
        scores: The scores that made the selection, `(C,)` per family; the lowest favour keeping most.
        multiples: Per family, the number kept becomes a multiple of this. A family that is too small for the
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
    scores: Mapping[str, Tensor] | JointScores,
    cost: Cost,
    budget: float,
    *,
    multiples: Mapping[str, int] | None = None,
    min_keep: int = 1,
) -> KeepMask:
    """Keep the structures with the most evidence per cost until a budget is met.

    The evidence for keeping a structure is minus its score. Structures with the least evidence per cost leave first.
    Their cost is what one structure of the family costs in the remaining network, computed again after each removal.
    Structures with evidence against them, which `rounded` or `min_keep` has kept, leave before all others, in the
    order of evidence times cost. The last to leave may be large, so that the cost is below the budget. Then structures
    that left before it come back while the budget has room for them, the last one first.

    Args:
        keep: The selection; what it removes stays removed.
        scores: The scores that made the selection, `(C,)` per family, or a function that makes them from what is
            kept: scores of structures that leave one after the other, given those that have left.
        cost: The cost that the budget limits.
        budget: The largest cost allowed.
        multiples: Per family, how many structures leave at a time, down to a multiple of that number.
        min_keep: Least number of structures a family keeps.

    Raises:
        ValueError: The budget cannot be met.
    """
    masks = {name: mask.clone() for name, mask in keep.items()}
    values = scores(masks) if callable(scores) else scores
    waiting = {name: _waiting(values[name], mask) for name, mask in masks.items()}
    counts = {name: len(left) for name, left in waiting.items()}
    removed: list[_Block] = []
    while cost(counts) > budget:
        marginal = cost.marginal(counts)
        sizes = {name: _block(counts[name], (multiples or {}).get(name, 1), min_keep) for name in keep}
        evidence = {
            name: -float(values[name][waiting[name][-size:]].mean()) for name, size in sizes.items() if size
        }
        if not evidence:
            raise ValueError(
                f"a budget of {budget:,.0f} cannot be met: with {min_keep} kept in every family the cost is "
                f"{cost(counts):,.0f}"
            )
        weakest = min(evidence, key=lambda name: _worth(evidence[name], marginal[name]))
        block = _Block(weakest, waiting[weakest][-sizes[weakest] :], evidence[weakest])
        masks[weakest][block.structures] = False
        counts[weakest] -= len(block.structures)
        removed.append(block)
        if callable(scores):
            values = scores(masks)
            waiting = {name: _waiting(values[name], mask) for name, mask in masks.items()}
        else:
            del waiting[weakest][-sizes[weakest] :]
    _give_back_(masks, counts, removed, cost, budget)
    return KeepMask(masks)


class _Block(NamedTuple):
    """Structures of one family that leave together, and the mean evidence for keeping them."""

    family: str
    structures: list[int]
    evidence: float


def _give_back_(
    masks: Mapping[str, Tensor], counts: dict[str, int], removed: list[_Block], cost: Cost, budget: float
) -> None:
    """Keep removed structures after all while the budget has room for them; the last to leave come first."""
    full = set[str]()
    for family, structures, evidence in reversed(removed):
        if len(full) == len(masks):
            return
        if family in full:
            continue
        larger = {**counts, family: counts[family] + len(structures)}
        if evidence > 0 and cost(larger) <= budget:
            masks[family][structures] = True
            counts.update(larger)
        else:
            full.add(family)  # with what left before, the family might not have a multiple


def _waiting(scores: Tensor, mask: Tensor) -> list[int]:
    """Return what is kept of a family, strongest evidence first, so that the next to leave is the last."""
    order = scores.argsort(stable=True).cpu()
    return [int(index) for index in order[mask[order]]]


def _worth(evidence: float, cost: float) -> tuple[float, float]:
    """Evidence per cost, or evidence times cost if it is negative; of equals, the most expensive leaves first."""
    cost = max(cost, 1e-12)
    return evidence / cost if evidence > 0 else evidence * cost, -cost


def _block(count: int, multiple: int, min_keep: int) -> int:
    """How many structures leave next, so that a multiple is left; 0 where that would leave too few."""
    size = count % multiple or multiple
    return size if count - size >= max(min_keep, 1) else 0
