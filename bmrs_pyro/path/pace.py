"""The length of a path, and the learning rate of its posteriors."""

from __future__ import annotations

__all__ = [
    "Pace",
    "Passes",
    "has_ended",
    "kl_weights",
    "refuse_short",
    "refuse_standing",
]

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import length_hint
from typing import Any

from torch import Tensor

from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.inference.inputs import count_batches
from bmrs_pyro.path.target import medians_of_three
from bmrs_pyro.training.history import Epoch
from bmrs_pyro.training.options import refuse_no_number
from bmrs_pyro.training.shuffling import set_epoch
from bmrs_pyro.training.travel import TRAVEL, width

FALL = 12.0
"""Factor by which the KL of all gains should fall from the first epoch of a path to its last."""

GROWTH = math.exp(0.5)
"""Largest factor by which the KL weight grows from one epoch to the next."""

LONGEST = 2
"""A path is at most this many times as long as planned."""


@dataclass(frozen=True)
class Pace:
    """The length of a path and the rate of its posteriors.

    In one step of Adam, a parameter of log θ moves by at most the learning rate, and it has to cross the prior, whose
    width is log high − log low. So the rate follows from the number of steps: steps × rate = 10 (log high − log low).
    Small data sets have few steps in a pass; an epoch of the path then consists of several passes.

    Attributes:
        epochs: epochs of the path.
        passes: passes over the data in an epoch.
        steps: training steps in an epoch.
        posterior_lr: learning rate of the posteriors.
    """

    epochs: int
    passes: int
    steps: int
    posterior_lr: float

    @classmethod
    def of(cls, loader: Iterable[Any], prior: LogUniform, *, epochs: int, min_steps: int = 100) -> Pace:
        """Return the pace for the data.

        Args:
            loader: the batches of one pass; without a length, they are counted in one pass.
            prior: prior of the gains, whose width has to be crossed.
            epochs: epochs of the path.
            min_steps: least number of steps in an epoch.
        """
        length = count_batches("the training loader", loader)
        passes = math.ceil(min_steps / length)
        rate = TRAVEL * width(prior) / (epochs * passes * length)
        return cls(epochs, passes, passes * length, rate)


class Passes:
    """Several passes over a loader as one epoch.

    Args:
        loader: the batches of one pass; its ``set_epoch``, if it has one, is called with the pass's number.
        passes: passes in an epoch.
    """

    def __init__(self, loader: Iterable[tuple[Any, Tensor]], passes: int) -> None:
        self.loader, self.passes, self.epoch = loader, passes, 0
        self.dataset = getattr(loader, "dataset", None)

    def __length_hint__(self) -> int:
        return self.passes * length_hint(self.loader)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next passes."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for number in range(self.passes):
            set_epoch(self.loader, self.epoch * self.passes + number)
            yield from self.loader


def kl_weights(records: Sequence[Epoch], start: float, epochs: int, num_data: int) -> list[float]:
    """Return the KL weight of every epoch so far and of the next one.

    The KL of all gains should fall by the same factor in every epoch, and by 12 in total. If it fell by less in the
    last epoch, the weight grows, by at most e^½. If it fell by enough, structures are being removed and the weight
    stays, unless the network :func:`overfits`: then a larger weight is needed, and it grows by e^½.

    Args:
        records: the epochs so far.
        start: the first weight.
        epochs: planned epochs of the path.
        num_data: number of training examples.
    """
    wanted = math.log(FALL) / epochs
    weights = [start] * min(len(records) + 1, 2)
    best = -math.inf
    for before, after in pairwise(records):
        best = max(best, before.validation_score)
        fall = math.log(before.kl / after.kl) if min(before.kl, after.kl) > 0 else wanted
        grow = 1.0 if overfits(after, best, num_data) else min(1.0, max(0.0, 1.0 - fall / wanted))
        weights.append(weights[-1] * GROWTH**grow)
    return weights


def overfits(record: Epoch, best: float, num_data: int) -> bool:
    """Whether an epoch predicts its training data better than the validation data, and those worse than before.

    Both differences are more than two standard errors. For the training data this is the ELBO per example, which is at
    most their log-likelihood.

    Args:
        record: the epoch.
        best: the best validation log-likelihood of earlier epochs, nats per example.
        num_data: number of training examples.
    """
    score = record.validation_score
    error = 2 * (record.log_likelihood_error or 0.0)
    return score < best - error and record.elbo / num_data > score + error


def has_ended(records: Sequence[Epoch], epochs: int) -> bool:
    """Whether a path can stop: it is as long as planned, and smaller networks score less, or there are none.

    There are none if no structure has left for a third of the planned epochs. The score is the validation
    log-likelihood, as a median of three epochs. It has begun to fall if its last three values are more than two
    standard errors below its best one. After twice the planned epochs the path stops in any case.

    Args:
        records: the epochs so far.
        epochs: the planned epochs.
    """
    if not epochs <= len(records) < LONGEST * epochs:
        return len(records) > epochs
    if records[-1].size == records[-1 - max(1, epochs // 3)].size:
        return True
    medians = medians_of_three([record.validation_score for record in records])
    error = records[medians.index(max(medians))].log_likelihood_error or 0.0
    return not max(medians[-3:]) >= max(medians) - 2 * error


def refuse_standing(lr: float) -> None:
    """Raise ValueError if the weights' learning rate is 0."""
    if lr == 0:
        raise ValueError("lr is 0; the weights of a path are trained, so give a rate above 0")


def refuse_short(epochs: int, dense_epochs: int) -> None:
    """Raise ValueError if a path is too short, and TypeError if its length is no whole number.

    Args:
        epochs: epochs of the path.
        dense_epochs: epochs without gains before it.
    """
    refuse_no_number("epochs", epochs, whole=True)
    if epochs < 2:
        raise ValueError(f"epochs is {epochs}; a path takes at least 2")
    refuse_no_number("dense_epochs", dense_epochs, least=0, whole=True)
