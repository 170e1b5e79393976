"""Reduction of a trained network: structures are removed in small cuts while its weights are trained."""

from __future__ import annotations

__all__ = ["JointReduction"]

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import length_hint

import torch
from torch import nn

from bmrs_pyro.distributed import world_size
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.inputs import pairs
from bmrs_pyro.inference.laplace import Curvature, gain_gradients
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network import compact, complexity, cost_model
from bmrs_pyro.network.generators import generators_kept, seed_generators
from bmrs_pyro.reduction import JointLoss, KeepMask, ModelReduction, bmrs_n, score_structures
from bmrs_pyro.training.batch_norm import reestimate_batch_norm_
from bmrs_pyro.training.cycle import Cycle
from bmrs_pyro.training.history import History
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.loop import Batches
from bmrs_pyro.training.path_point import PathPoint
from bmrs_pyro.training.plain_steps import PlainSteps
from bmrs_pyro.training.progress import EpochBar
from bmrs_pyro.training.trainee import Refit
from bmrs_pyro.training.validation import validate


@dataclass(frozen=True)
class JointReduction:
    """How a trained network is reduced to a budget, inside one cycle of the learning rate.

    The first part of the cycle has several cuts, with training steps between them. Each cut removes the same share of
    the remaining cost, so that the last cut reaches the budget. The rest of the cycle trains the small network. Each
    cut computes the gradients of single examples again. They give the loss of log-likelihood from removing any set of
    structures (:class:`JointLoss`). Structures are removed one by one, always the one with the least loss per cost,
    given those removed before. The same gradients give Laplace's posteriors
    (:meth:`AutoTruncatedLogNormal.from_laplace`), and with them the evidence ΔF of each structure alone, for reports.

    Attributes:
        loader: training batches of one pass.
        validation: batches that networks are scored on.
        epochs: total number of passes over the data; 0 makes the cuts without training.
        cycle: optimiser and learning rates of the steps.
        teacher: network for distillation, with half the weight of the loss; None for no distillation.
        criterion: scores single structures, for reports.
        cuts: number of cuts.
        share: share of the cycle that contains the cuts.
        batches: number of batches for the gradients of a cut, and for its score.
        seed: seed of all random numbers; None uses the generators' present state.
        progress: show a progress bar.

    Raises:
        ValueError: a number is out of range, or several processes are running.
        TypeError: the teacher is no network.
    """

    loader: Batches
    validation: Batches
    epochs: int = 15
    cycle: Cycle = field(default_factory=Cycle)
    teacher: nn.Module | None = None
    criterion: ModelReduction = field(default_factory=bmrs_n)
    cuts: int = 10
    share: float = 0.2
    batches: int = 8
    seed: int | None = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.cuts < 1 or self.batches < 1 or not 0 <= self.share <= 1:
            raise ValueError(
                f"epochs={self.epochs}, cuts={self.cuts}, batches={self.batches} and share={self.share}; there must be "
                "at least 0 epochs, 1 cut and 1 batch, and the share lies between 0 and 1"
            )
        if not isinstance(self.teacher, nn.Module | None):
            raise TypeError(
                f"teacher is a {type(self.teacher).__name__}; give a network, such as teacher=net"
            )
        if world_size() > 1:
            raise ValueError("a trained network is reduced by one process; start it without torchrun")

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches in a pass."""
        return length_hint(self.loader) or sum(1 for _ in pairs(self.loader))

    def run(
        self, model: SupervisedModel, limits: Limits, start: PathPoint, before: History
    ) -> tuple[Refit, tuple[PathPoint, ...]]:
        """Reduce a copy of a model's network to budgets; return the refit, and a point for every cut.

        Args:
            model: the trained model, which is not changed.
            limits: budgets that can be met, and multiples.
            start: costs and score of the network.
            before: masks of the structures that the network has, numbered as in the original network, and the scores
                of those that were removed earlier.
        """
        model = copy.deepcopy(model)
        history = History(
            before.keep, scores={name: values.clone() for name, values in before.scores.items()}
        )
        with generators_kept() if self.seed is not None else nullcontext():
            if self.seed is not None:
                seed_generators(self.seed)
            with EpochBar(self.epochs, self.loader, enabled=self.progress) as bar:
                points = tuple(self._points(model, limits, history, bar))
            guide = _posteriors(model, self.loss(model))
        history.note_scores(score_structures(guide.posteriors(), model.prior, self.criterion))
        history.network = compact(model.network, {})
        point = self.point(model, self.validation, self.cuts, points[-1].delta_f)
        return Refit(start, point, model, guide, history), points

    def loss(self, model: SupervisedModel) -> JointLoss:
        """Return the loss of log-likelihood from removing any set of structures, at the present weights.

        Raises:
            ValueError: there are no examples.
        """
        found = [*gain_gradients(model, self.loader, self.batches)]
        if not found:
            raise ValueError("the training data hold no examples: a generator can be read only once")
        gradients = torch.cat(found)
        names = tuple(family.name for family in model.structures)
        return JointLoss(names, gradients, model.num_data / len(gradients))

    def point(
        self, model: SupervisedModel, validation: Batches, number: int = 0, delta_f: float | None = None
    ) -> PathPoint:
        """Return the network's costs and score after a number of cuts."""
        cost = complexity(model.network)
        return PathPoint(
            epoch=number,
            kl_weight=model.kl_weight.factor,
            structures={family.name: family.size for family in model.structures},
            parameters=cost.parameters,
            macs=cost.macs,
            bytes=cost.bytes,
            delta_f=delta_f,
            score=validate(model, {}, validation),
        )

    def _points(
        self, model: SupervisedModel, limits: Limits, history: History, bar: EpochBar
    ) -> Iterator[PathPoint]:
        """Make the cuts and the training steps, and yield a point after each cut."""
        net, total = model.network.net, self.epochs * self.steps_per_epoch
        steps = PlainSteps(net, model.likelihood, self.loader, total, self.cycle, bar.step, self.teacher)
        for number, target in enumerate(_shares(model, limits, self.cuts), 1):
            loss = self.loss(model)
            scores = score_structures(_posteriors(model, loss).posteriors(), model.prior, self.criterion)
            history.note_scores(scores)
            whole = KeepMask({name: torch.ones(len(q), dtype=torch.bool) for name, q in scores.items()})
            keep = target.applied(model.network, whole, loss)
            steps.cut_(model.network.remove_(keep))
            history.keep = history.keep.then(keep)
            steps.make(round(total * self.share * number / self.cuts))
            reestimate_batch_norm_(net, self.loader, self.batches)
            gone = [
                values[~history.keep[name]] - self.criterion.log_prior_odds
                for name, values in history.scores.items()
            ]
            delta_f = sum(float(values.sum()) for values in gone)
            yield self.point(model, list(islice(self.validation, self.batches)), number, delta_f)
        steps.make(total)
        reestimate_batch_norm_(net, self.loader)


def _posteriors(model: SupervisedModel, loss: JointLoss) -> AutoTruncatedLogNormal:
    """Return Laplace's posteriors of the single gains, from the same gradients."""
    slope = loss.weight * loss.gradients.double().sum(0)
    return AutoTruncatedLogNormal.from_curvature(model, Curvature(slope, 2 * loss.alone))


def _shares(model: SupervisedModel, limits: Limits, cuts: int) -> list[Limits]:
    """Return the budgets of every cut: a geometric series from the network's cost to the limits."""
    counts = {family.name: family.size for family in model.structures}
    wholes = {"max_macs": "macs", "max_parameters": "parameters"}
    whole = {name: cost_model(model.network, cost)(counts) for name, cost in wholes.items()}

    def after(share: float) -> Limits:
        budgets = {
            name: int(whole[name] * (getattr(limits, name) / whole[name]) ** share)
            for name in wholes
            if getattr(limits, name) is not None and getattr(limits, name) < whole[name]
        }
        return replace(limits, **budgets)

    return [after(number / cuts) for number in range(1, cuts)] + [limits]
