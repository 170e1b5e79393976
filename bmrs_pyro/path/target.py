"""The target by which a network of a path is chosen."""

from __future__ import annotations

__all__ = ["Target", "TargetMissed", "medians_of_three", "smoothed"]

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

from bmrs_pyro.path.quantities import Quantity, Times, is_share, number_of, refuse_no_loss, seconds

if TYPE_CHECKING:  # the command's help does not import torch
    from torch import nn

    from bmrs_pyro.network import Complexity
    from bmrs_pyro.path.point import PathPoint
    from bmrs_pyro.path.regularisation import Path
    from bmrs_pyro.training.validation import Score

MARGIN = 0.02
"""Nats per example by which training with random gains may change the log-likelihood of as accurate a network."""

_BUDGETS = {"max_macs": "macs", "max_params": "parameters", "max_bytes": "bytes"}


class TargetMissed(ValueError):
    """No network of the path meets the target; the message says what can be met.

    Attributes:
        path: the path, if it was fitted; ``choose(error.path, Target(...))`` chooses from it.
    """

    path: Path | None = None


@dataclass(frozen=True)
class Target:
    """What the network may cost.

    Without any maximum, the smallest network within one standard error of the best validation score on the path is
    chosen (Breiman et al. 1984; ``lambda.1se`` of glmnet). With budgets alone, the largest network
    within them is chosen that scores within one standard error of the best there.

    Attributes:
        score: Validation score that counts: accuracy or log_likelihood. By default it is the log-likelihood without
            any maximum, because the accuracy of few examples is coarse. With a maximum, and for a trained network, it
            is the accuracy, if there is one; for a trained network of values without any maximum, the RMSE counts too.
        max_loss: Largest loss of score against the unpruned network: points (percent) of accuracy, or nats per
            example of log-likelihood.
        max_macs: Most multiply-accumulates for one example: a number, or a share of the unpruned network's such as 50%.
        max_params: Most parameters: a number, or a share such as 50%.
        max_bytes: Most bytes of weights and buffers: a number, or a share such as 50%.
        max_latency: Longest time for one batch, measured on this machine: seconds, a text such as 2ms, or a share of
            the unpruned network's such as 50%.
        batch_size: Examples in the batch with which max_latency is measured.

    Raises:
        ValueError: a quantity is not a positive number, or a share is above 100 %.
    """

    score: str | None = None
    max_loss: float | None = None
    max_macs: Quantity | None = None
    max_params: Quantity | None = None
    max_bytes: Quantity | None = None
    max_latency: Quantity | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.score not in (None, "accuracy", "log_likelihood"):
            raise ValueError(f"score is {self.score!r}; use 'accuracy' or 'log_likelihood'")
        refuse_no_loss(self.max_loss)
        whole = isinstance(self.batch_size, Integral) and not isinstance(self.batch_size, bool)
        if not whole or self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size!r}; it must be at least 1, and a whole number")
        if self.batch_size != 1 and self.max_latency is None:
            raise ValueError(
                f"batch_size is {self.batch_size}, but it belongs to max_latency, which is not given; the loader sets "
                "the size of training batches"
            )
        for name in _BUDGETS:
            value = getattr(self, name)
            number = number_of(name, value, 100)  # a share as it is written, 30 for 30%
            if number is not None and number < 1 and not str(value).strip().endswith("%"):
                raise ValueError(
                    f"{name} is {value!r}, less than 1; a share has a percent sign: '{100 * number:g}%'"
                )
        seconds(self.max_latency, 1.0)

    @property
    def loses_nothing(self) -> bool:
        """Whether it names no maximum: the smallest network within one standard error of the best is wanted."""
        return self.max_loss is None and all(
            getattr(self, name) is None for name in (*_BUDGETS, "max_latency")
        )

    @property
    def kl_weight(self) -> str:
        """The kind of KL weight for the path: each family counts by its share of the cost that is limited.

        It counts multiply-accumulates if they or the latency are limited, and the size is not; else parameters.
        """
        macs = self.max_macs is not None or self.max_latency is not None
        return "cost-macs" if macs and self.max_params is None and self.max_bytes is None else "cost"

    def score_of(self, score: Score) -> tuple[float, float]:
        """Return the score that counts, with its standard error.

        Raises:
            ValueError: the score is the accuracy, but the likelihood has none.
        """
        if self._by_accuracy(score):
            if score.accuracy is None:
                raise ValueError(
                    "this likelihood has no accuracy; choose by score='log_likelihood' (--score log_likelihood)"
                )
            return score.accuracy, score.accuracy_error or 0.0
        return score.log_likelihood, score.log_likelihood_error or 0.0

    def _by_accuracy(self, score: Score) -> bool:
        if self.score is None:
            return score.accuracy is not None and not self.loses_nothing
        return self.score == "accuracy"

    def least_scores(self, path: Path) -> tuple[float, float]:
        """Return the least score of a point on the path, and the least score of a network after its refit.

        On the path, ``max_loss`` is subtracted from the best point's score; after the refit, :meth:`least_of` counts.
        With budgets alone, any score is enough.

        By default, one standard error is subtracted in place of the loss, from the score of the best point or of the
        unpruned network. If there is an accuracy, :meth:`least_accuracy` counts too, and the log-likelihood may fall
        further after the refit: by two standard errors and 0.02 nats below the unpruned network's, because training
        with random gains changes it by itself.
        """
        scores, (dense, error) = smoothed(path.points, self), self.score_of(path.dense.score)
        best = max(scores)
        if self.max_loss is not None:
            return best - self._loss(path.dense.score), self.least_of(path.dense)
        if not self.loses_nothing:
            return -math.inf, -math.inf
        one = self.score_of(path.points[scores.index(best)].score)[1]
        if math.isfinite(self.least_accuracy(path.dense)):
            return best - one, max(best - 2 * one, dense - 2 * error - MARGIN)
        return best - one, max(best - one, dense - error)

    def least_accuracy(self, dense: PathPoint) -> float:
        """Return the least accuracy of a network chosen by default.

        It is below the unpruned one's by one standard error of the difference of two such accuracies, √2 of each one's.
        The log-likelihood alone is not enough: that of an overconfident network improves while its accuracy falls.
        """
        score = dense.score
        if self.score is not None or not self.loses_nothing or score.accuracy is None:
            return -math.inf
        return score.accuracy - math.sqrt(2) * (score.accuracy_error or 0.0)

    def most_rmse(self, dense: PathPoint) -> float:
        """Return the largest RMSE of a network chosen by default: one standard error above the unpruned one's.

        The log-likelihood alone is not enough: that of a network that has overfitted, or of values with outliers, is so
        low or so uncertain that a network which has learned nothing reaches it.
        """
        score = dense.score
        if self.score is not None or not self.loses_nothing or score.rmse is None:
            return math.inf
        return score.rmse + (score.rmse_error or 0.0)

    def least_of(self, dense: PathPoint) -> float:
        """Return the least score of a finished network, relative to the unpruned network's score.

        It is ``max_loss`` below that, less one standard error, so that the loss on new data is probably not larger. If
        there are too few validation data for that, the network must not score less at all. Without a maximum it is one
        standard error below.
        """
        score, error = self.score_of(dense.score)
        if self.max_loss is not None:
            return score - max(0.0, self._loss(dense.score) - error)
        return score - error if self.loses_nothing else -math.inf

    def _loss(self, score: Score) -> float:
        loss = self.max_loss or 0.0
        return loss / 100 if self._by_accuracy(score) else loss

    def budgets(self, dense: PathPoint | Complexity) -> tuple[int | None, int | None]:
        """Return the most multiply-accumulates and parameters; a budget of bytes is turned into one of parameters."""
        macs, parameters, size = (
            number_of(name, getattr(self, name), getattr(dense, cost)) for name, cost in _BUDGETS.items()
        )
        if size is not None:
            parameters = min(size * dense.parameters / dense.bytes, parameters or math.inf)
        most_macs, most_parameters = (
            None if budget is None else max(1, int(budget)) for budget in (macs, parameters)
        )
        return most_macs, most_parameters

    def unmet(self, dense: Complexity, macs: float, parameters: float) -> str | None:
        """Say which budget a network exceeds that is as small as can be, and which could be met; None if none."""
        least = {"macs": macs, "parameters": parameters, "bytes": parameters * dense.bytes / dense.parameters}
        for name, cost in _BUDGETS.items():
            asked, value, whole = getattr(self, name), math.ceil(least[cost]), getattr(dense, cost)
            budget = number_of(name, asked, whole)
            if budget is not None and budget < value:
                share = f" or '{math.ceil(1e4 * value / whole) / 100:g}%'" if is_share(asked) else ""
                meant = f" ('{budget:g}%' would be a share)" if not share and budget <= 100 else ""
                return (
                    f"{name} is {asked!r}: a budget of {budget:,.0f} {cost} cannot be met, because the smallest "
                    f"network, with one structure in every family, has {value:,}{meant}; allow {value:,}{share}"
                )
        return None

    def fitting(self, path: Path) -> list[PathPoint]:
        """Return the points within the budgets, largest first; none if the budgets are smaller than the last point.

        Raises:
            TargetMissed: every point within the budgets takes longer than the latency.
        """
        points = [point for point in path.points if self.exceeded(point, path.dense) is None]
        if self.max_latency is None:
            return points
        # networks get faster along the path, and so is one that is cut from its last point
        timed = points or path.points[-1:]
        first = bisect_left(timed, True, key=lambda point: self.is_fast(path, point))
        if first == len(timed):
            least = path.points[-1]
            raise TargetMissed(
                f"no network of the path is fast enough. The smallest has {least.parameters:,} parameters and takes "
                f"{self.times(path, path.network(least))}: allow that, or fit a longer path"
            )
        return points[first:]

    def is_fast(self, path: Path, point: PathPoint) -> bool:
        """Whether a point's network, before its refit, is as fast as the maximum asks."""
        return self.times(path, path.network(point)).within(self.max_latency)

    def times(self, path: Path, net: nn.Module) -> Times:
        """Measure the unpruned network and another one, in turns."""
        return Times(*path.latencies([path.network(path.dense), net], self.batch_size))

    def exceeded(self, point: PathPoint, dense: PathPoint) -> str | None:
        """Say which budget, other than the latency, a network exceeds; None if it exceeds none."""
        for name, cost in _BUDGETS.items():
            budget, own = number_of(name, getattr(self, name), getattr(dense, cost)), getattr(point, cost)
            if budget is not None and own > budget:
                return f"has {own:,} {cost} and should have at most {math.floor(budget):,}"
        return None


def smoothed(points: Sequence[PathPoint], target: Target) -> list[float]:
    """Return the points' scores as medians of three neighbours, because single scores at constant rates are noisy."""
    scores = (target.score_of(point.score)[0] for point in points)
    return medians_of_three([-math.inf if math.isnan(score) else score for score in scores])


def medians_of_three(values: Sequence[float]) -> list[float]:
    """Return the median of each value and its neighbours."""
    return [statistics.median(values[max(0, index - 1) : index + 2]) for index in range(len(values))]
