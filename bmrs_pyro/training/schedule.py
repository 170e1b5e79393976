"""The plan of each epoch of a recipe: its learning rate, whether it prunes, whether the weights are frozen."""

from __future__ import annotations

__all__ = ["EpochPlan", "linear_decay", "plan_of"]

from collections.abc import Callable
from dataclasses import dataclass

from bmrs_pyro.training.recipe import Recipe


@dataclass(frozen=True)
class EpochPlan:
    """The plan of one epoch.

    Attributes:
        epoch: the epoch's number, from 1.
        phase: ``"prune"`` or ``"fine-tune"``.
        rate: factor of the learning rates.
        pruning: whether a pruning event follows the epoch.
        last: whether this is the last pruning event, which applies the budgets.
        settled: whether no pruning event can change the structures from this epoch on.
        frozen: whether the weights are frozen.
    """

    epoch: int
    phase: str
    rate: float
    pruning: bool
    last: bool
    settled: bool
    frozen: bool


def plan_of(recipe: Recipe, epoch: int) -> EpochPlan:
    """Return the plan of an epoch of a recipe, counted from 1."""
    total = recipe.epochs + recipe.fine_tune_epochs
    phase = "prune" if epoch <= recipe.epochs else "fine-tune"
    pruning = recipe.prunes and epoch <= recipe.epochs and epoch % recipe.prune_every == 0
    return EpochPlan(
        epoch=epoch,
        phase=phase,
        rate=_schedule(recipe)((epoch - 1) / total),
        pruning=pruning,
        last=pruning and epoch + recipe.prune_every > recipe.epochs,
        settled=not recipe.prunes or epoch > recipe.epochs // recipe.prune_every * recipe.prune_every,
        frozen=recipe.gains_only and phase == "prune",
    )


def linear_decay(progress: float) -> float:
    """Learning-rate factor: 1 over the first half of training, then linearly to 0.

    Args:
        progress: share of the epochs already done, in [0, 1).
    """
    return min(1.0, 2.0 * (1.0 - progress))


def _schedule(recipe: Recipe) -> Callable[[float], float]:
    if callable(recipe.schedule):
        return recipe.schedule
    return linear_decay if recipe.schedule == "linear-decay" else lambda progress: 1.0
