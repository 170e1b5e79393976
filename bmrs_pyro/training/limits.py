"""Limits on a pruned network in addition to the evidence: multiples of channels, and budgets."""

from __future__ import annotations

__all__ = ["Limits"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from bmrs_pyro.network import Complexity, NoisyNetwork, complexity, cost_model
from bmrs_pyro.reduction import JointScores, KeepMask, rounded, within_budget
from bmrs_pyro.training.options import refuse_no_number
from bmrs_pyro.training.recipe import Recipe


@dataclass(frozen=True)
class Limits:
    """Multiples and budgets; by default none, so that the evidence alone decides.

    Args:
        round_to: layers get numbers of channels that are multiples of this. An attention head of 32 channels is
            already a multiple of 8.
        max_macs: most multiply-accumulates for one example.
        max_parameters: most parameters.
        unmet: says which budget the smallest network exceeds, given the whole network's costs, and MACs and parameters
            of the smallest one; None for the usual message.

    Raises:
        ValueError: a number is not positive.
    """

    round_to: int = 1
    max_macs: int | None = None
    max_parameters: int | None = None
    unmet: Callable[[Complexity, float, float], str | None] | None = field(
        default=None, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        refuse_no_number("round_to", self.round_to, least=1, whole=True)
        for name in ("max_macs", "max_parameters"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or value < 1):
                raise ValueError(f"{name} is {value!r}; it must be at least 1, and not a text or share")

    @classmethod
    def of(cls, recipe: Recipe) -> Limits:
        """Return the limits of a recipe.

        Raises:
            ValueError: nothing is pruned, so they would have no effect.
        """
        named = {name: getattr(recipe, name) for name in ("round_to", "max_macs", "max_params")}
        given = ", ".join(f"{name}={value}" for name, value in named.items() if value not in (None, 1))
        if given and (not recipe.prunes or recipe.epochs < recipe.prune_every):
            why = (
                f"prune_every={recipe.prune_every} of {recipe.epochs} epochs"
                if recipe.prunes
                else "there is no criterion"
            )
            raise ValueError(
                f"{given} would have no effect, because nothing is pruned ({why}); prune, or drop the limits"
            )
        return cls(recipe.round_to, recipe.max_macs, recipe.max_params)

    def on(self, network: NoisyNetwork, units: Mapping[str, float] | None = None) -> Callable[..., KeepMask]:
        """Return :meth:`applied` for a network, in the form for ``select(..., limits=)``."""
        return partial(self.applied, network, units=units)

    def least(self, network: NoisyNetwork) -> tuple[int, int]:
        """Return MACs and parameters of the smallest network, with one structure per family or its multiple."""
        multiples = _multiples(network, self.round_to)
        counts = {family.name: min(family.size, multiples[family.name]) for family in network.structures}
        macs, parameters = (round(cost_model(network, cost)(counts)) for cost in ("macs", "parameters"))
        return macs, parameters

    def refuse_impossible(self, network: NoisyNetwork) -> None:
        """Raise ValueError if the smallest network, with one structure per family, exceeds a budget."""
        macs, parameters = self.least(network)
        budgets = (("macs", macs, self.max_macs), ("parameters", parameters, self.max_parameters))
        for cost, least, budget in budgets:
            if budget is not None and least > budget:
                said = self.unmet and self.unmet(complexity(network), macs, parameters)
                raise ValueError(
                    said
                    or f"{cost}: a budget of {budget:,} cannot be met, because the smallest network, with one "
                    f"structure in every family, has {least:,}"
                )

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
        """Return the selection that meets the limits.

        Args:
            network: the network with gains, before the removal.
            keep: masks of the structures that the evidence keeps.
            scores: the scores of this decision, or a function that computes scores from the masks.
            min_keep: least number of structures that each family keeps.
            budgets: False ignores the budgets, for a pruning event before the last one.
            units: nats of log-likelihood per nat of each family's score, by site name: the family's KL weight, for
                scores that are a change of evidence. By default all are 1.

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
                try:
                    keep = within_budget(keep, scores, model, budget, multiples=multiples, min_keep=min_keep)
                except ValueError as error:
                    raise ValueError(f"{cost}: {error}") from None
        return keep


def _multiples(network: NoisyNetwork, round_to: int) -> dict[str, int]:
    """Return, for each family, the multiple of structures that gives a multiple of ``round_to`` channels."""
    multiples = {}
    for family in network.structures:
        channels = [
            len(member.positions) // family.size
            for member in family.members
            if member.role in ("produce", "recur")
        ]
        multiples[family.name] = round_to // math.gcd(round_to, *channels)
    return multiples
