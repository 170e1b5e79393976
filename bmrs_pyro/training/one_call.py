"""One call from a network and data to a smaller network."""

from __future__ import annotations

__all__ = ["Pruned", "ScoreMissed", "prune"]

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.inputs import pairs
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.network.nested import map_leaves
from bmrs_pyro.training.choosing import Target, smoothed
from bmrs_pyro.training.loop import Batches
from bmrs_pyro.training.path_point import PathPoint
from bmrs_pyro.training.regularisation import Path, fit_path
from bmrs_pyro.training.trainee import Refit

CLASSES = "categorical:0.02"
"""The likelihood of class labels, smoothed as in the best recipe known."""

REFITS = 4
"""Most points that are refitted to meet a target."""

STEP = 1.25
"""How many times the parameters the next one has, where one missed."""

_TARGET = {field.name for field in fields(Target)}


class ScoreMissed(UserWarning):
    """No network that was refitted reached the score that the target asks for."""


@dataclass(frozen=True)
class Pruned:
    """A small network, and how it was found.

    Attributes:
        network: the small network, plain and in evaluation mode.
        point: what it costs and how well it predicts the validation data.
        posteriors: of the gains that are left, by site name; their means are in the network's weights.
        likelihood: of y given the network's outputs, with its trained parameters, such as a learned scale.
        path: all networks on the way.
        target: what was asked for.
        met: whether the network meets it; where not, it is the best that was found.
        notes: the networks that missed it before, in words.
    """

    network: nn.Module
    point: PathPoint
    posteriors: Mapping[str, TruncatedLogNormal]
    likelihood: Likelihood
    path: Path
    target: Target
    met: bool
    notes: tuple[str, ...]

    def choose(self, **target: Any) -> Pruned:
        """Take another network of the same path; only its refit is trained.

        Args:
            **target: as for :class:`Target`, such as ``max_macs="30%"``.
        """
        return _chosen(self.path, Target(**target))


def prune(
    net: nn.Module,
    train: Batches,
    *,
    validation: Batches,
    likelihood: str | Likelihood | None = None,
    **options: Any,
) -> Pruned:
    """Train and prune a network, to the smallest one that loses nothing, or to what it may cost.

    The network is trained as it is first, to know what it can do; then a path of falling sizes is fitted
    (:func:`fit_path`), a point chosen by its validation score (:class:`Target`) and trained to its end. Where that
    misses the target, a larger point follows.

    Args:
        net: the network, trained or not; it stays as it is.
        train: training batches ``(x, y)`` of one pass.
        validation: batches that everything is chosen on.
        likelihood: of y given the network's outputs, see :func:`as_likelihood`; by default ``"categorical:0.02"``.
        **options: those of :class:`Target`, such as ``max_loss=0.5`` or ``max_macs="50%"``; the rest are
            those of :func:`fit_path` and :func:`fit`, such as ``epochs``, ``directory``, ``seed`` and ``device``.

    Raises:
        TargetMissed: no network of the path fits the budgets.
        ValueError: a target is out of range, or the labels are no classes and there is no likelihood.
    """
    target = Target(**{name: options.pop(name) for name in _TARGET & set(options)})
    x, y = next(pairs(train), (None, None))
    if y is None:
        raise ValueError("there are no training batches; give a loader that can be read several times")
    if likelihood is None and y.is_floating_point():
        raise ValueError(
            f"the labels are {y.dtype}, no classes; name their likelihood, such as likelihood='normal'"
        )
    network = NoisyNetwork(copy.deepcopy(net), *_one_example(x))
    model = SupervisedModel(network, likelihood or CLASSES, _num_data(train), kl_weight="cost")
    guide = AutoTruncatedLogNormal(model)
    return _chosen(fit_path(model, guide, train, validation=validation, **options), target)


def _chosen(path: Path, target: Target) -> Pruned:
    """Refit points, ever larger ones, until one meets the target."""
    before, least = target.least_scores(path)
    scores = smoothed(path.points, target)
    fitting = target.fitting(path)
    left = [pair for pair in zip(path.points, scores, strict=True) if pair[0] in fitting]
    found: list[Refit] = []
    notes: list[str] = []
    while left and len(found) < REFITS:
        good = [point for point, score in left if score >= before > -math.inf]
        refit = path.refit(good[-1] if good else max(left, key=lambda pair: pair[1])[0])
        found.append(refit)
        if target.score_of(refit.point.score)[0] >= least:
            return _pruned(refit, path, target, True, notes)
        notes.append(_short(refit, least, target))
        left = [pair for pair in left if pair[0].parameters >= STEP * refit.start.parameters]
    best = max(found, key=lambda refit: target.score_of(refit.point.score)[0])
    warnings.warn(
        f"{_short(best, least, target)}, and it is the best of {len(found)}: allow more loss, or fit a longer path",
        ScoreMissed,
        stacklevel=3,
    )
    return _pruned(best, path, target, False, notes)


def _short(refit: Refit, least: float, target: Target) -> str:
    reached = target.score_of(refit.point.score)[0]
    return f"a network of {refit.point.parameters:,} parameters scores {reached:.4g} and should reach {least:.4g}"


def _pruned(refit: Refit, path: Path, target: Target, met: bool, notes: list[str]) -> Pruned:
    return Pruned(
        network=refit.history.network,
        point=refit.point,
        posteriors=refit.guide.posteriors(),
        likelihood=refit.model.likelihood,
        path=path,
        target=target,
        met=met,
        notes=tuple(notes),
    )


def _num_data(loader: Batches) -> int:
    for holder, count in ((loader, "num_data"), (getattr(loader, "dataset", None), "__len__")):
        if hasattr(holder, count):
            found = getattr(holder, count)
            return int(found() if callable(found) else found)
    return sum(len(y) for _, y in loader)


def _one_example(x: Any) -> tuple[Any, ...]:
    first = map_leaves(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) else leaf, x)
    return tuple(first) if isinstance(first, (tuple, list)) else (first,)
