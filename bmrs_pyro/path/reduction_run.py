"""One reduction of a trained network in progress: its cuts, its steps, and the state it continues from."""

from __future__ import annotations

__all__ = ["ReductionRun"]

import statistics
import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.laplace import Curvature
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network import compact, cost_model
from bmrs_pyro.network.generators import seed_generators
from bmrs_pyro.network.untouched import deep_copy
from bmrs_pyro.path.point import PathPoint
from bmrs_pyro.path.trainee import Refit
from bmrs_pyro.reduction import JointLoss, KeepMask, score_structures
from bmrs_pyro.training.batch_norm import reestimate_batch_norm_
from bmrs_pyro.training.checkpoint import StateStore, TrainingState
from bmrs_pyro.training.cycle import Cycle
from bmrs_pyro.training.history import Epoch, History
from bmrs_pyro.training.likelihood_fit import fit_likelihood_
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.plain_steps import PlainSteps
from bmrs_pyro.training.progress import EpochBar
from bmrs_pyro.training.shuffling import set_epoch
from bmrs_pyro.training.validation import validate

if TYPE_CHECKING:
    from bmrs_pyro.path.joint_reduction import JointReduction

_OPTIM = "optim/"


class ReductionRun:
    """A reduction in progress.

    Args:
        plan: how the network is reduced.
        model: the trained model, which is not changed.
        before: masks of the structures that the network has, numbered as in the original network, and the scores of
            those that were removed earlier.
        store: saves the state after every epoch and at the end; an existing state is continued.
    """

    def __init__(
        self, plan: JointReduction, model: SupervisedModel, before: History, store: StateStore | None
    ) -> None:
        self.plan, self.store, self.dense = plan, store, model
        self.model, self.points = deep_copy(model), list[PathPoint]()
        scores = {name: values.clone() for name, values in before.scores.items()}
        self.history, self.earlier = History(before.keep, [*before.epochs], scores), len(before.epochs)
        self.state = None if store is None else store.load()
        if self.state is not None:
            self._restore(self.state)
        self.per_epoch, self.losses = plan.steps_per_epoch, list[float]()
        self.bar = EpochBar(
            self.earlier + plan.epochs, plan.loader, enabled=plan.progress, done=len(self.history)
        )
        self.clock = time.perf_counter()

    def refit(self, start: PathPoint, limits: Limits) -> Refit:
        """Make the cuts and steps that are not made yet, and return the result.

        Args:
            start: costs and score of the network.
            limits: budgets that can be met, and multiples.
        """
        plan, model, history = self.plan, self.model, self.history
        if self.state is not None and "guide" in self.state.tensors:  # finished
            guide = AutoTruncatedLogNormal(model)
            guide.load_state_dict(self.state.tensors["guide"])
            *self.points, point = self.points
        else:
            with self.bar:
                self._make(limits, plan.cycle.for_labels(start.score.accuracy is not None))
            guide = posteriors_of(model, plan.loss(model))
            history.note_scores(score_structures(guide.posteriors(), model.prior, plan.criterion))
            point = plan.point(model, plan.validation, plan.cuts, self.points[-1].delta_f)
            self._save({"guide": guide.state_dict()}, point)
        history.network = compact(model.network, {})
        return Refit(start, point, model, guide, history)

    def _make(self, limits: Limits, cycle: Cycle) -> None:
        plan, net, total = self.plan, self.model.network.net, self.plan.epochs * self.per_epoch
        steps = PlainSteps(net, self.model.likelihood, plan.loader, total, cycle, self._note, plan.teacher)
        self.steps = steps
        self._seed()
        cut = len(self.points)
        if self.state is not None:
            done = len(self.history) - self.earlier
            optim = {name: part for name, part in self.state.tensors.items() if name.startswith(_OPTIM)}
            steps.resume_(done * self.per_epoch, done, {n.removeprefix(_OPTIM): p for n, p in optim.items()})
            set_epoch(plan.loader, done - 1)  # as the last step left it
            cut += 1  # the state was saved after it
        for number, target in enumerate(_shares(self.dense, limits, plan.cuts), 1):
            if number <= len(self.points):
                continue
            if number > cut:
                self._cut(steps, target)
            steps.make(round(total * plan.share * number / plan.cuts))
            self._reestimate(plan.batches)
            self._fit_likelihood()
            held_out = list(islice(plan.validation, plan.batches))
            self.points.append(plan.point(self.model, held_out, number, self._delta_f()))
        steps.make(total)
        self._reestimate()
        self._fit_likelihood()

    def _reestimate(self, *limit: int) -> None:
        """Estimate the statistics of batch norms anew, unless the network is as it was given."""
        if self.steps.done or self.history.keep.removed:
            reestimate_batch_norm_(self.model.network.net, self.plan.loader, *limit)

    def _fit_likelihood(self) -> None:
        """Fit the likelihood's parameters to the present network, whose errors are larger after a cut."""
        fit_likelihood_(self.model.likelihood, self.model.network, self.plan.loader)

    def _cut(self, steps: PlainSteps, target: Limits) -> None:
        model, loss = self.model, self.plan.loss(self.model)
        scores = score_structures(posteriors_of(model, loss).posteriors(), model.prior, self.plan.criterion)
        self.history.note_scores(scores)
        whole = KeepMask({name: torch.ones(len(q), dtype=torch.bool) for name, q in scores.items()})
        keep = target.applied(model.network, whole, loss)
        gains = loss.gains(keep)
        steps.cut_(model.network.remove_(keep))
        model.network.fold_({name: gain[keep[name]] for name, gain in gains.items()})
        self.history.keep = self.history.keep.then(keep)

    def _delta_f(self) -> float:
        """Return Σ ΔF of the removed structures, each at its removal."""
        keep, odds = self.history.keep, self.plan.criterion.log_prior_odds
        return sum(float((q[~keep[name]] - odds).sum()) for name, q in self.history.scores.items())

    def _note(self, loss: float) -> None:
        """Take notice of a step's loss; after the last step of an epoch, record the epoch and save the state."""
        self.losses.append(loss)
        self.bar.step(-loss)
        if len(self.losses) < self.per_epoch:
            return
        model, epochs = self.model, self.history.epochs
        seconds = time.perf_counter() - self.clock
        structures = {family.name: family.size for family in model.structures}
        score = validate(model, {}, self.plan.validation)
        sizes = epochs[-1].structures if epochs else {n: len(mask) for n, mask in self.history.keep.items()}
        record = Epoch(
            epoch=len(epochs) + 1,
            phase="fine-tune",
            elbo=-statistics.fmean(self.losses) * model.num_data,
            kl=0.0,
            removed=sum(sizes.values()) - sum(structures.values()),
            structures=structures,
            learning_rate=self.steps.rate,
            seconds=seconds,
            parameters=sum(weight.numel() for weight in model.network.net.parameters()),
            **score._asdict(),
        )
        epochs.append(record)
        self.bar.finish(record)
        for callback in self.plan.callbacks:
            callback(record)
        self.losses.clear()
        optim = {f"{_OPTIM}{name}": state for name, state in self.steps.state().items()}
        self._save(optim)
        self._seed()
        self.clock = time.perf_counter()

    def _seed(self) -> None:
        """Seed the random numbers of the next epoch, so that a reduction continues with the same ones."""
        if self.plan.seed is not None:
            seed_generators((self.plan.seed * 1_000_003 + len(self.history)) % 2**32)

    def _save(self, parts: dict[str, dict[str, torch.Tensor]], *points: PathPoint) -> None:
        if self.store is not None:
            tensors = {"model": self.model.state_dict(), "scores": self.history.scores, **parts}
            epochs = tuple(self.history.epochs)
            made = tuple(point.to_json() for point in (*self.points, *points))
            self.store.save(TrainingState(self.history.keep, epochs, None, tensors, made))

    def _restore(self, state: TrainingState) -> None:
        left = {name: mask[self.history.keep[name]] for name, mask in state.keep.items()}
        self.model.network.remove_(left)
        self.model.load_state_dict(state.tensors["model"])
        self.points[:] = map(PathPoint.from_json, state.points)
        self.history = History(state.keep, [*state.epochs], dict(state.tensors["scores"]))


def posteriors_of(model: SupervisedModel, loss: JointLoss) -> AutoTruncatedLogNormal:
    """Return Laplace's posteriors of the single gains, from the same gradients."""
    slope = loss.weight * loss.gradients.double().sum(0)
    return AutoTruncatedLogNormal.from_curvature(model, Curvature(slope, 2 * loss.alone))


def _shares(model: SupervisedModel, limits: Limits, cuts: int) -> list[Limits]:
    """Return the budgets of every cut: a geometric series from the network's cost to the limits."""
    counts = {family.name: family.size for family in model.structures}
    wholes = {"max_macs": "macs", "max_parameters": "parameters"}
    whole = {name: cost_model(model.network, cost)(counts) for name, cost in wholes.items()}

    def after(share: float) -> Limits:
        budgets: dict[str, Any] = {
            name: int(whole[name] * (getattr(limits, name) / whole[name]) ** share)
            for name in wholes
            if getattr(limits, name) is not None and getattr(limits, name) < whole[name]
        }
        return replace(limits, **budgets)

    return [after(number / cuts) for number in range(1, cuts)] + [limits]
