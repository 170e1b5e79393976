"""The choice of a network on a path by a target, and its refit."""

from __future__ import annotations

__all__ = ["Choice", "ScoreMissed", "choose", "limits_of", "too_large"]

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pyro
from pyro.distributions import TorchDistribution

from bmrs_pyro.inference.inputs import on_device_of
from bmrs_pyro.metrics.evaluation import evaluation_mode
from bmrs_pyro.network import NoisyNetwork, complexity
from bmrs_pyro.path.constant import constant_log_likelihood
from bmrs_pyro.path.point import PathPoint
from bmrs_pyro.path.quantities import Times
from bmrs_pyro.path.regularisation import Path
from bmrs_pyro.path.skill import (
    ADVICE,
    ALL_WITHIN,
    LEAST,
    Quality,
    warn_if_much_worse,
    warn_if_nothing_learned,
    warn_if_unlikely,
)
from bmrs_pyro.path.target import Target, TargetMissed, smoothed
from bmrs_pyro.path.trainee import Refit
from bmrs_pyro.training.limits import Limits

REFITS = 6
"""Largest number of points that are refitted to meet a target."""

SMALLER = 3
"""Largest number of smaller points that are refitted after that."""

STEP = 1.25
"""After the k-th miss, the next point is larger or smaller by at least this number to the power of k, if one is."""


class ScoreMissed(UserWarning):
    """No refitted network reached the score of the target, or the chosen one is too slow."""


@dataclass(frozen=True)
class Choice:
    """A network of a path, and how it was found.

    Attributes:
        refit: the refitted point.
        target: the target of the choice.
        met: whether the network meets the target; if not, it is the best network found.
        notes: one sentence about each network that missed the target.
        caution: says that the unpruned network predicts no better than a constant, or that the network meets the
            target but is much worse than the unpruned one; None if neither is so.
        times: how long the network takes for a batch, if the target has a latency.
    """

    refit: Refit
    target: Target
    met: bool
    notes: tuple[str, ...]
    caution: str | None = None
    times: Times | None = None

    def with_times(self, path: Path) -> Choice:
        """Measure the network if the target has a latency; one that is too slow does not meet the target."""
        limit = self.target.max_latency
        if limit is None:
            return self
        times = self.times or self.target.times(path, self.refit.history.network)
        if times.within(limit):
            return replace(self, times=times)
        note = f"a network of {self.refit.point.parameters:,} parameters takes {times}, after its refit"
        warnings.warn(
            f"{note}: times this near to the maximum ({limit}) are not certain, so allow more, or choose by max_macs",
            ScoreMissed,
            stacklevel=4,
        )
        return replace(self, times=times, met=False, notes=(*self.notes, note))

    def with_caution(self, path: Path) -> Choice:
        """Warn, and say so, if the unpruned network has learned nothing, or this one is much worse than it.

        Of a network that misses its target, or that was allowed to lose accuracy, it is not said that it is worse.
        Values are compared by log-likelihood too. With an RMSE all of the lead over a constant must be lost, because
        the log-likelihood of a network that has overfitted is very low.
        """
        model, score, before = self.refit.model, self.refit.point.score, path.dense.score
        silent = not self.met or (score.accuracy is not None and self.target.max_loss is not None)
        validation = path.trainee.validation
        limited = self.target.max_loss is None and not self.target.loses_nothing
        wide = (
            limited
            and bool(path.points)
            and not any(self.target.exceeded(point, path.dense) for point in path.points)
        )
        advice = ALL_WITHIN if wide else ADVICE

        def predict(x: Any) -> TorchDistribution:
            return model.likelihood(model.network(x, {}))

        def constant() -> float | None:
            return constant_log_likelihood(model.likelihood, model.network, validation)

        def unlikely() -> bool:
            best = constant()
            return best is None or before.log_likelihood <= best

        with pyro.get_param_store().scope(model.stored), evaluation_mode(model):
            batches = on_device_of(model.network, validation)
            caution = warn_if_nothing_learned(Quality.of(before), predict, batches, unlikely, stacklevel=5)
            if caution is None and not silent:
                batches = on_device_of(model.network, validation)
                caution = warn_if_much_worse(
                    Quality.of(score), Quality.of(before), predict, batches, advice=advice, stacklevel=5
                )
            if caution is None and not silent and score.accuracy is None and limited:  # by budgets alone
                share = LEAST if score.rmse is None else 0.0
                scores = score.log_likelihood, before.log_likelihood
                caution = warn_if_unlikely(*scores, constant, share=share, advice=advice, stacklevel=4)
        return replace(self, caution=caution)


def choose(path: Path, target: Target) -> Choice:
    """Refit points of a path until one meets the target.

    Without a maximum, smaller points are refitted then, while they lose nothing. With budgets alone, two larger points
    are refitted too and cut to them, because a refit removes structures anyway: the smallest one above the budgets, and
    the smallest of at least twice their size. Of these networks the one that scores best is taken.

    After a miss, a larger point is refitted, or a smaller one if the refit has overfitted. Where none of that size is
    left, a point larger than all of those is refitted. Smaller points are tried for the default target alone: points
    score lower on the path than after their refit, and small ones more so. A refit loses nothing if it is within one
    standard error of the best score, on the path or of a refit, and its accuracy is at least
    :meth:`Target.least_accuracy`. If the budgets are smaller than the smallest point, its refit cuts it to them.

    Raises:
        TargetMissed: no network can meet the budgets, or none of the path is fast enough.
    """
    choice = _chosen(path, target)
    limits = limits_of(target, path.trainee.model.network)
    for start in _larger(path, target) if choice.met else ():
        cut = path.refit(start, limits=limits)
        score, best = (
            (target.score_of(score)[0], score.log_likelihood)
            for score in (cut.point.score, choice.refit.point.score)
        )
        if score > best and not target.exceeded(cut.point, path.dense):
            choice = replace(choice, refit=cut)
    return choice.with_times(path).with_caution(path)


def limits_of(target: Target, network: NoisyNetwork, round_to: int = 1) -> Limits:
    """Return multiples, and the budgets of a target, for a network that is not pruned yet."""
    return Limits(round_to, *target.budgets(complexity(network)), target.unmet)


def _chosen(path: Path, target: Target) -> Choice:
    before, least = target.least_scores(path)
    scores = smoothed(path.points, target)
    fitting = target.fitting(path)
    left = every = [pair for pair in zip(path.points, scores, strict=True) if pair[0] in fitting]
    found = [] if left else [_cut(path, target)]
    notes = [note for refit in found if (note := _shortfall(path, refit, least, target))]
    if len(notes) < len(found):
        return Choice(found[0], target, True, ())
    while left and len(found) < REFITS:
        good = [point for point, score in left if score >= before > -math.inf]
        refit = path.refit(good[-1] if good else _best(left, target))
        found.append(refit)
        note = _shortfall(path, refit, least, target)
        if note is None:
            if not notes and target.loses_nothing:
                refit = _smaller(path, refit, max(*scores, target.score_of(path.dense.score)[0]), target)
            return Choice(refit, target, True, tuple(notes))
        notes.append(note)
        left = _next(left, refit, target, STEP ** len(notes)) or _next(left, refit, target, STEP)
        if not left:  # between the sizes that were tried; larger networks are not yet
            largest = max(refit.start.parameters for refit in found)
            left = [pair for pair in every if pair[0].parameters >= STEP * largest]
    best, note = max(
        zip(found, notes, strict=True),
        key=lambda pair: (_counted_accuracy(path, pair[0], target), target.score_of(pair[0].point.score)[0]),
    )
    warnings.warn(
        f"{note}, the best of {len(found)}: allow more loss, give more data, or change the path's epochs",
        ScoreMissed,
        stacklevel=4,
    )
    return Choice(best, target, False, tuple(notes))


def _next(
    points: list[tuple[PathPoint, float]], missed: Refit, target: Target, step: float
) -> list[tuple[PathPoint, float]]:
    """Return the points to try after a refit that misses: larger ones, or smaller ones if it overfits.

    A refit overfits if it scores less than its point did on the path, by more than one standard error.
    """
    (before, error), size = target.score_of(missed.start.score), missed.start.parameters
    if target.score_of(missed.point.score)[0] < before - error:
        return [pair for pair in points if step * pair[0].parameters <= size]
    return [pair for pair in points if pair[0].parameters >= step * size]


def _best(points: list[tuple[PathPoint, float]], target: Target) -> PathPoint:
    """Return the largest point that scores within one standard error of the best."""
    best, score = max(points, key=lambda pair: pair[1])
    least = score - target.score_of(best.score)[1]
    return next(point for point, score in points if score >= least)


def _larger(path: Path, target: Target) -> list[PathPoint]:
    """Return the smallest point above the budgets, and the smallest of at least twice their size, or the largest one.

    There are none if budgets are not all that is asked, or if all points are within them.
    """
    macs, parameters = target.budgets(path.dense)
    if target.max_loss is not None or target.max_latency is not None or not (macs or parameters):
        return []
    above = [point for point in path.points if target.exceeded(point, path.dense)]
    twice = [
        point
        for point in above
        if point.macs >= 2 * (macs or math.inf) or point.parameters >= 2 * (parameters or math.inf)
    ]
    nearest, large = above[-1:], twice[-1:] or above[:1]
    return nearest if nearest == large else nearest + large


def _cut(path: Path, target: Target) -> Refit:
    """Refit the smallest point, and cut it to the budgets meanwhile."""
    network = path.trainee.model.network
    limits = limits_of(target, network)
    try:
        limits.refuse_impossible(network)
    except ValueError as error:
        raise TargetMissed(str(error)) from None
    return path.refit(path.points[-1], limits=limits)


def _smaller(path: Path, refit: Refit, best: float, target: Target) -> Refit:
    """Refit smaller points until one scores more than one standard error below the best; return the one before it."""
    start = refit.start
    for _ in range(SMALLER):
        score, error = target.score_of(refit.point.score)
        best = max(best, score)
        rest = [point for point in path.points if STEP * point.parameters <= start.parameters]
        if not rest:
            break
        start = rest[0]
        smaller = path.refit(start)
        score = target.score_of(smaller.point.score)[0]
        worse = too_large(smaller.point.score.rmse, target.most_rmse(path.dense))
        if score < best - error or worse or not _is_accurate(path, smaller, target):
            break
        if smaller.point.parameters < refit.point.parameters:
            refit = smaller
    return refit


def _is_accurate(path: Path, refit: Refit, target: Target) -> bool:
    accuracy = refit.point.score.accuracy
    return accuracy is None or accuracy >= target.least_accuracy(path.dense)


def _counted_accuracy(path: Path, refit: Refit, target: Target) -> float:
    """Return the accuracy up to the least one that is wanted; above that, networks are told apart by their score."""
    return min(refit.point.score.accuracy or 0.0, target.least_accuracy(path.dense))


def _shortfall(path: Path, refit: Refit, least: float, target: Target) -> str | None:
    """Say by what a network misses the target; None if it meets it."""
    score, parameters = target.score_of(refit.point.score)[0], refit.point.parameters
    if over := target.exceeded(
        refit.point, path.dense
    ):  # batch norm's buffers count as bytes, but not as parameters
        return f"a network of {parameters:,} parameters {over}"
    if score < least:
        return f"a network of {parameters:,} parameters scores {score:.4g} and should reach {least:.4g}"
    if over := too_large(refit.point.score.rmse, target.most_rmse(path.dense)):
        return f"a network of {parameters:,} parameters {over}"
    if _is_accurate(path, refit, target):
        return None
    reached, wanted = refit.point.score.accuracy, target.least_accuracy(path.dense)
    return f"a network of {parameters:,} parameters has an accuracy of {reached:.2%} and should reach {wanted:.2%}"


def too_large(rmse: float | None, most: float) -> str | None:
    """Say that an RMSE is larger than it should be; None if it is not, or unknown."""
    if rmse is None or rmse <= most:
        return None
    return f"has an RMSE of {rmse:.4g} and should have at most {most:.4g}"
