"""Whether a network predicts better than the best constant, and whether a small one has lost much of that lead."""

from __future__ import annotations

__all__ = [
    "ADVICE",
    "ALL_WITHIN",
    "LEAST",
    "MuchWorse",
    "NothingLearned",
    "Quality",
    "warn_if_much_worse",
    "warn_if_nothing_learned",
    "warn_if_unlikely",
]

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.inference.inputs import pairs
from bmrs_pyro.inference.observations import observed
from bmrs_pyro.inference.outcomes import Outcome

LEAST = 0.5
"""Share of the first network's lead over the best constant below which another one is much worse."""

CLEAR = 0.05
"""Least lead that can be lost: accuracy, share of the values' variance, or nats per example."""

ADVICE = "give it more epochs, a lower learning rate or a larger budget"
"""What to do about a small network that is much worse."""

ALL_WITHIN = "the path has no network larger than the budget, so give it more epochs or a lower learning rate"
"""What to do if a larger budget would give the same network."""


class MuchWorse(UserWarning):
    """A small network predicts much worse than the network it was made from."""


class NothingLearned(UserWarning):
    """The unpruned network predicts no better than a constant."""


class Quality(NamedTuple):
    """Accuracy of classes, or RMSE of values; None if the likelihood has none."""

    accuracy: float | None
    rmse: float | None

    @classmethod
    def of(cls, scores: object) -> Quality:
        """Return the quality among a network's scores."""
        return cls(getattr(scores, "accuracy", None), getattr(scores, "rmse", None))

    def lead(self, constant: float) -> float:
        """Lead over the best constant in accuracy, or in mean square error as a share of the values' variance.

        NaN if all labels or values are the same: a constant is right about them, and nothing can be told.
        """
        if self.accuracy is not None:
            return self.accuracy - constant if constant < 1 else math.nan
        return math.nan if self.rmse is None or constant == 0 else 1 - (self.rmse / constant) ** 2

    def told(self, constant: float) -> tuple[str, str, str]:
        """Return the name of what is measured, its value, and that of the best constant."""
        if self.accuracy is not None:
            return "accuracy", f"{self.accuracy:.2%}", f"{constant:.2%}"
        return "RMSE", f"{self.rmse:.4g}", f"{constant:.4g}"


@torch.no_grad()
def warn_if_nothing_learned(
    quality: Quality,
    predict: Callable[[Any], Distribution],
    batches: Iterable[Any],
    unlikely: Callable[[], bool],
    *,
    stacklevel: int = 1,
) -> str | None:
    """Warn if the unpruned network predicts no better than the best constant, and return the warning.

    Args:
        quality: quality of the network on validation data.
        predict: returns p(y | x), given a batch's inputs; only its kind counts.
        batches: the validation data.
        unlikely: says whether the network's log-likelihood is no better either.
        stacklevel: frames up to the caller that is told.
    """
    if quality.accuracy is None and quality.rmse is None:
        return None
    best = _constant(predict, batches)
    if not quality.lead(best) <= 0 or not unlikely():
        return None
    name, value, constant = quality.told(best)
    told = (
        f"the unpruned network predicts no better than a constant: {name} {value}, {constant} for the best constant; "
        "train it longer, or check that inputs and labels belong together"
    )
    warnings.warn(told, NothingLearned, stacklevel=stacklevel + 2)  # no_grad wraps this function
    return told


@torch.no_grad()
def warn_if_much_worse(
    small: Quality,
    before: Quality,
    predict: Callable[[Any], Distribution],
    batches: Iterable[Any],
    *,
    advice: str = ADVICE,
    stacklevel: int = 1,
) -> str | None:
    """Warn if a network has lost half of its lead over the best constant prediction, and return the warning.

    The lead is that of the accuracy over the share of the most frequent class, or that of the mean square error over
    the variance of the values.

    Args:
        small: quality of the small network on validation data.
        before: quality of the network that it was made from.
        predict: returns p(y | x), given a batch's inputs, of either network; only its kind counts.
        batches: the validation data.
        advice: what to do.
        stacklevel: frames up to the caller that is told.
    """
    if small.accuracy is None or before.accuracy is None:
        small, before = Quality(None, small.rmse), Quality(None, before.rmse)
        worse = small.rmse is not None and before.rmse is not None and not small.rmse <= before.rmse
    else:
        worse = not small.accuracy >= before.accuracy
    if not worse:
        return None
    best = _constant(predict, batches)
    lead = before.lead(best)
    if not lead >= CLEAR or small.lead(best) >= LEAST * lead:
        return None
    name, after, constant = small.told(best)
    told = (
        f"the small network is much worse: {name} {after}, {before.told(best)[1]} before, {constant} for the best "
        f"constant; {advice}"
    )
    warnings.warn(told, MuchWorse, stacklevel=stacklevel + 2)  # no_grad wraps this function
    return told


def warn_if_unlikely(
    small: float,
    before: float,
    best: Callable[[], float | None],
    *,
    share: float,
    advice: str = ADVICE,
    stacklevel: int = 1,
) -> str | None:
    """Warn if a network has lost too much of its lead in log-likelihood over the best constant outputs.

    Args:
        small: mean log-likelihood of the small network on validation data, nats per example.
        before: that of the network that it was made from.
        best: returns that of the best constant outputs; None if it is not known.
        share: share of the lead that must be left.
        advice: what to do.
        stacklevel: frames up to the caller that is told.

    Returns:
        The warning; None if there is none.
    """
    if small >= before or (constant := best()) is None:
        return None
    lead = before - constant
    if not lead >= CLEAR or small - constant > share * lead:
        return None
    told = (
        f"the small network is much worse: log-likelihood {small:.4g}, {before:.4g} before, {constant:.4g} for the "
        f"best constant outputs; {advice}"
    )
    warnings.warn(told, MuchWorse, stacklevel=stacklevel + 1)
    return told


def _constant(predict: Callable[[Any], Distribution], batches: Iterable[Any]) -> float:
    """Return the share of the most frequent class, or the standard deviation of the values.

    Every feature of values, and every label of 0 and 1, has a constant of its own; other classes have one together.
    """
    found: list[tuple[Tensor, Tensor]] = []
    classes = False
    for x, y in pairs(batches):
        distribution = predict(x)
        labels = observed(distribution, y)
        outcome = Outcome.of(distribution)
        if outcome.log_p is not None:
            classes, labels = True, outcome.labels(labels)
        single = outcome.log_p is not None and outcome.log_p.shape[-1] > 2
        counted = outcome.counted(labels).to(labels.device)
        found.append((_by_column(labels.cpu(), single), _by_column(counted.cpu(), single)))
    if len({labels.shape[1] for labels, _ in found}) > 1:  # sequences of several lengths
        found = [(labels.reshape(-1, 1), counted.reshape(-1, 1)) for labels, counted in found]
    values, counts = (torch.cat(parts) for parts in zip(*found, strict=True))
    columns = [column[counts[:, index]] for index, column in enumerate(values.unbind(1))]
    columns = [column for column in columns if len(column)]
    total = sum(map(len, columns))
    if not total:
        return math.nan
    if classes:
        return sum(column.bincount().max().item() for column in columns) / total
    return math.sqrt(
        sum(len(column) * column.double().var(correction=0).item() for column in columns) / total
    )


def _by_column(labels: Tensor, single: bool) -> Tensor:
    """Return labels ``(N, columns)``: features are the last dimension, or the second one of maps."""
    if single or labels.dim() < 2:
        return labels.reshape(-1, 1)
    return labels.movedim(1 if labels.dim() >= 4 else -1, -1).flatten(0, -2)
