"""A trained network and smaller networks made from it: one reduction to a budget, or several rounds."""

from __future__ import annotations

__all__ = ["TrainedPath"]

import warnings
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import NoReturn

import torch
from torch import nn

from bmrs_pyro.files import make_folder
from bmrs_pyro.inference.inputs import on_device_of, one_pass
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network import compact, complexity
from bmrs_pyro.network.generators import generators_kept
from bmrs_pyro.path.choice import Choice, ScoreMissed, limits_of, too_large
from bmrs_pyro.path.fast_cuts import reduced_in_time
from bmrs_pyro.path.joint_reduction import JointReduction
from bmrs_pyro.path.pace import Pace
from bmrs_pyro.path.point import PathPoint
from bmrs_pyro.path.quantities import Times
from bmrs_pyro.path.regularisation import Path
from bmrs_pyro.path.settings import refuse_other_settings
from bmrs_pyro.path.shelf import Shelf
from bmrs_pyro.path.signature import digest, identity
from bmrs_pyro.path.target import Target, TargetMissed
from bmrs_pyro.path.trainee import Refit, Trainee
from bmrs_pyro.reduction import Decision, JointScores, KeepMask, criterion_name
from bmrs_pyro.training.counts import warn_of_num_data
from bmrs_pyro.training.history import History
from bmrs_pyro.training.labels import refuse_labels, warn_of_probabilities, warn_of_unscored
from bmrs_pyro.training.likelihood_fit import fit_likelihood_
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.travel import NothingLeft
from bmrs_pyro.training.validation import Score

ROUND = 0.7
"""Share of the multiply-accumulates that each round keeps, if there is no budget."""

SMALLEST = 0.98
"""A round that would keep more than this share is not worth its epochs."""


@dataclass(frozen=True, repr=False)
class TrainedPath(Path):
    """The path of a trained network: its points are the cuts of one reduction.

    Attributes:
        reduction: how the network is made smaller.
        round_to: layers keep multiples of this number of channels.
    """

    reduction: JointReduction
    round_to: int = 1

    @classmethod
    def of(
        cls, model: SupervisedModel, reduction: JointReduction, round_to: int = 1, shelf: Shelf | None = None
    ) -> TrainedPath:
        """Return the path of a model before any reduction; in a shelf's directory finished reductions are kept."""
        with generators_kept():
            x, y = next(on_device_of(model, one_pass("the training loader", reduction.loader)))
        y = y.to(next(model.parameters()).device)
        refuse_labels(model, x, y)
        fit_likelihood_(model.likelihood, model.network, reduction.loader)
        warn_of_num_data(model.num_data, reduction.loader)
        warn_of_probabilities(model, model.network, model.likelihood, x)
        warn_of_unscored(model, x, y)
        dense = reduction.point(model, reduction.validation)
        pace = Pace(reduction.epochs, 1, reduction.steps_per_epoch, 0.0)
        trainee = Trainee(model, reduction.loader, reduction.validation, reduction.criterion, pace, {})
        return cls(dense, (), _whole(model), trainee, shelf or Shelf(), reduction, round_to)

    @classmethod
    def kept(
        cls, folder: FilePath, model: SupervisedModel, reduction: JointReduction, round_to: int = 1
    ) -> TrainedPath:
        """Return the path of a model whose reductions are kept in a folder: continued there, or loaded if finished.

        Raises:
            ValueError: the folder holds reductions of another network, of other weights, or with other settings.
            WriteError: the folder cannot be made.
        """
        make_folder(folder)
        settings = {
            "trained": True,
            **identity(model, reduction.validation),
            "weights": f"of digest {digest(model.network.net)}",
            "round_to": round_to,
            **reduction.settings(),
        }
        refuse_other_settings(folder, settings, write=True)
        return cls.of(model, reduction, round_to, Shelf(folder))

    def refit(self, point: PathPoint, *, epochs: int | None = None, limits: Limits | None = None) -> NoReturn:
        """Raise ValueError: only the last point of this path is fully trained."""
        raise ValueError("the points of a trained network's path are not kept; choose another budget instead")

    def decision(self, history: History) -> Decision:
        """Return what the joint loss decided about every structure, with the ΔF of each one alone."""
        criterion = self.reduction.criterion
        name = criterion_name(criterion)
        return Decision.by(criterion, name, history.keep, history.scores, joint=True)

    def network(self, point: PathPoint) -> nn.Module:
        """Return the dense network, plain and in evaluation mode; the networks of other points are not kept.

        Raises:
            ValueError: the point is not ``dense``.
        """
        if point != self.dense:
            raise ValueError("a trained network's path keeps only the dense network")
        return compact(self.trainee.model.network, {})

    def chosen(self, target: Target) -> tuple[TrainedPath, Choice]:
        """Reduce the network to a target.

        With a budget there is one reduction. A latency becomes a budget of multiply-accumulates by trial cuts
        (:func:`reduced_in_time`). Without a budget there are rounds. Each round is a whole reduction that keeps 70 % of
        the multiply-accumulates of the previous one. If so many cannot be removed, it removes half of those that can.
        When a network misses the score, the previous network is chosen.

        Raises:
            TargetMissed: a budget cannot be met, or no network is fast enough.
        """
        if target.loses_nothing and target.score is None and self.dense.score.accuracy is not None:
            # training further improves the log-likelihood of an overconfident network, whatever is removed
            target = replace(target, score="accuracy")
        least, times, notes = target.least_of(self.dense), None, tuple[str, ...]()
        if any(target.budgets(self.dense)) or target.max_latency is not None:
            refit, points, times, notes = self._within(target, self._limits(target))
        else:
            refit, points = self._rounds(target, least)
        missed = target.exceeded(refit.point, self.dense)
        if missed := missed or self._shortfall(refit.point.score, target, least):
            note = f"a network of {refit.point.parameters:,} parameters {missed}"
            warnings.warn(
                f"{note}: allow a larger loss or budget, or train for more epochs", ScoreMissed, stacklevel=4
            )
            notes = (*notes, note)
        choice = Choice(refit, target, not missed, notes, times=times).with_times(self).with_caution(self)
        return replace(self, points=points, history=refit.history), choice

    def _limits(self, target: Target) -> Limits:
        """Return the budgets of a target.

        Raises:
            TargetMissed: no network can meet them.
        """
        network = self.trainee.model.network
        limits = limits_of(target, network, self.round_to)
        try:
            limits.refuse_impossible(network)
        except ValueError as error:
            raise TargetMissed(str(error)) from None
        return limits

    def _rounds(self, target: Target, least: float) -> tuple[Refit, tuple[PathPoint, ...]]:
        model, macs = self.trainee.model, self.dense.macs
        smallest, _ = Limits(self.round_to).least(model.network)
        history = _whole(model)
        best: tuple[Refit, tuple[PathPoint, ...]] | None = None
        while True:
            budget = int(macs * ROUND)
            if budget < smallest:  # a part of the network cannot be removed: half of the rest can
                budget = (macs + smallest) // 2
            if best is not None and budget > SMALLEST * macs:
                return best
            refit, points = self._reduced(model, Limits(self.round_to, budget), history)
            if self._shortfall(refit.point.score, target, least):
                return best or (refit, points)
            before = best[1] if best else ()
            points = (*before, *(replace(point, epoch=point.epoch + len(before)) for point in points))
            best = replace(refit, point=replace(refit.point, epoch=points[-1].epoch)), points
            model, history, macs = refit.model, refit.history, refit.point.macs

    def _shortfall(self, score: Score, target: Target, least: float) -> str | None:
        """Say by what a network misses the target; None if it meets it."""
        reached, most = target.score_of(score)[0], target.most_rmse(self.dense)
        if reached < least:
            allowed = "" if target.max_loss is None else " (max_loss less one standard error of the score)"
            return f"scores {reached:.4g} and should reach {least:.4g}{allowed}"
        return too_large(score.rmse, most)

    def _within(
        self, target: Target, limits: Limits
    ) -> tuple[Refit, tuple[PathPoint, ...], Times | None, tuple[str, ...]]:
        """Reduce the network to budgets, and to a latency if the target has one; warn if nothing leaves.

        Returns:
            The refit, its points, how long the network takes, and one sentence about each network that took too long.
        """
        model, dense = self.trainee.model, self.dense

        def reduced(limits: Limits) -> tuple[Refit, tuple[PathPoint, ...]]:
            if (limits.max_macs or dense.macs) >= dense.macs and target.exceeded(dense, dense) is None:
                warnings.warn(
                    f"nothing is removed: the given network meets the target with {dense.macs:,} MACs and "
                    f"{dense.parameters:,} parameters; give a smaller budget",
                    NothingLeft,
                    stacklevel=6,
                )
            return self._reduced(model, limits, _whole(model))

        def loss() -> JointScores:
            with generators_kept():
                return self.reduction.loss(model)

        times, slow = None, tuple[str, ...]()
        if target.max_latency is None:
            refit, points = reduced(limits)
        else:
            found = reduced_in_time(self, target, limits, loss, reduced)
            (refit, points), times, slow = found.reduced, found.times, found.slow
        return refit, points, times, slow

    def _reduced(
        self, model: SupervisedModel, limits: Limits, history: History
    ) -> tuple[Refit, tuple[PathPoint, ...]]:
        """Make a reduction, continue an interrupted one, or load a finished one."""
        store = self.shelf.reduction(complexity(model.network).macs, limits)
        return self.reduction.run(model, limits, self.dense, history, store)


def _whole(model: SupervisedModel) -> History:
    """Return the history of a model that has all its structures."""
    sizes = {family.name: family.size for family in model.structures}
    return History(KeepMask({name: torch.ones(size, dtype=torch.bool) for name, size in sizes.items()}))
