"""What a pruned network has to fit into, beside what the evidence says."""

from __future__ import annotations

__all__ = ["Limits"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bmrs_pyro.network import NoisyNetwork, cost_model
from bmrs_pyro.reduction import JointScores, KeepMask, rounded, within_budget
from bmrs_pyro.training.recipe import Recipe


@dataclass(frozen=True)
class Limits:
    """Multiples and budgets; by default none, so that the evidence alone decides.

    Args:
        round_to: numbers of channels that layers shall have are multiples of this. An attention head of 32 channels
            is a multiple of 8 by itself.
        max_macs: most multiply-accumulates for one example.
        max_parameters: most parameters.

    Raises:
        ValueError: a number is not positive.
    """

    round_to: int = 1
    max_macs: int | None = None
    max_parameters: int | None = None

    def __post_init__(self) -> None:
        for name in ("round_to", "max_macs", "max_parameters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    @classmethod
    def of(cls, recipe: Recipe) -> Limits:
        """Return the limits of a recipe."""
        return cls(recipe.round_to, recipe.max_macs, recipe.max_params)

    def on(self, network: NoisyNetwork, units: Mapping[str, float] | None = None) -> Callable[..., KeepMask]:
        """Return :meth:`applied` for a network, as ``select(..., limits=)`` takes it."""
        return partial(self.applied, network, units=units)

    def refuse_impossible(self, network: NoisyNetwork) -> None:
        """Raise ValueError if the smallest network that keeps something of every family is over a budget."""
        scores = {family.name: -torch.ones(family.size) for family in network.structures}
        self.applied(network, KeepMask.from_scores(scores), scores)

    def applied(
        self,
        network: NoisyNetwork,
        keep: KeepMask,
        scores: Mapping[str, Tensor] | JointScores,
        *,
        min_keep: int = 1,
        budgets: bool = True,
        units: Mapping[str, float] | None = None,
    ) -> KeepMask:
        """Return the selection that obeys the limits.

        Args:
            network: the network with gains, before the removal.
            keep: what the evidence keeps.
            scores: the scores it was decided by, or a function that makes them from what is kept.
            min_keep: least number of structures a family keeps.
            budgets: False leaves the budgets for later, as when pruning goes on.
            units: what a nat of each family's score is worth in nats of the log-likelihood, by site name: its KL
                weight, for scores that are a change of evidence. By default they are worth the same.

        Raises:
            ValueError: a budget cannot be met.
        """
        multiples = _multiples(network, self.round_to)
        keep = rounded(keep, scores(keep) if callable(scores) else scores, multiples)
        if not budgets:
            return keep
        if units is not None and not callable(scores):
            scores = {name: units[name] * values for name, values in scores.items()}
        for cost, budget in (("macs", self.max_macs), ("parameters", self.max_parameters)):
            if budget:
                model = cost_model(network, cost)
                keep = within_budget(keep, scores, model, budget, multiples=multiples, min_keep=min_keep)
        return keep


def _multiples(network: NoisyNetwork, round_to: int) -> dict[str, int]:
    """Return the multiples of structures that give multiples of channels."""
    multiples = {}
    for family in network.structures:
        channels = [
            len(member.positions) // family.size
            for member in family.members
            if member.role in ("produce", "recur")
        ]
        multiples[family.name] = round_to // math.gcd(round_to, *channels)
    return multiples
