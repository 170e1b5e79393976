"""How far the posteriors travel in a run, and the warnings where that is not far enough."""

from __future__ import annotations

__all__ = [
    "TRAVEL",
    "NothingLeft",
    "SlowPosteriors",
    "warn_of_nothing_left",
    "warn_of_slow_posteriors",
    "width",
]

import warnings
from collections.abc import Sequence

from bmrs_pyro.distributions import LogUniform

TRAVEL = 10.0
"""Σ steps × rate of the posteriors in a path, in widths of the prior: with 5 a third more structures stayed."""


class SlowPosteriors(UserWarning):
    """The posteriors cannot cross the prior in this run: rates or steps are too small."""


class NothingLeft(UserWarning):
    """A run with a criterion, or a pruning to a budget, has removed no structures."""


def width(prior: LogUniform) -> float:
    """Return log high − log low, the width that a posterior has to cross."""
    return float(prior.high.log() - prior.low.log())


def warn_of_slow_posteriors(prior: LogUniform, steps: int, rates: Sequence[float]) -> None:
    """Warn if no posterior can cross the prior during the epochs with pruning.

    Args:
        prior: prior of the gains.
        steps: steps in an epoch; 0 if unknown, then there is no warning.
        rates: learning rate of the posteriors in every epoch that may end with a removal.
    """
    travel, needed = steps * sum(rates), width(prior)
    if steps and travel < needed:
        warnings.warn(
            f"{steps} steps an epoch for {len(rates)} epochs of pruning move a posterior by at most {travel:.3g}, but "
            f"it has to cross the prior, {needed:.3g} wide, several times: few or no structures will leave. Raise "
            f"the posteriors' learning rate {TRAVEL * needed / max(travel, 1e-9):.2g} times (posterior_lr_factor), or "
            "train for more steps; a run along the path sets both",
            SlowPosteriors,
            stacklevel=3,
        )


def warn_of_nothing_left(epochs: int, largest: int, min_keep: int) -> None:
    """Warn that a run has removed nothing, and say what to change.

    Args:
        epochs: epochs with pruning.
        largest: number of structures in the largest family.
        min_keep: number of structures that every family keeps at least.
    """
    if min_keep >= largest:
        warnings.warn(
            f"nothing was removed, because min_keep is {min_keep} and no layer has more than {largest} structures: "
            "give a smaller min_keep",
            NothingLeft,
            stacklevel=3,
        )
        return
    warnings.warn(
        f"nothing was removed in {epochs} epochs of pruning by the criterion: train for more epochs. A run at one KL "
        "weight may need a larger weight or a higher learning rate of the posteriors too; a run along the path sets "
        "these two",
        NothingLeft,
        stacklevel=3,
    )
