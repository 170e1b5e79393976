"""Reduction of a trained network: structures are removed in small cuts while its weights are trained."""

from __future__ import annotations

__all__ = ["JointReduction"]

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import nn

from bmrs_pyro.distributed import world_size
from bmrs_pyro.inference.inputs import count_batches, refuse_meta
from bmrs_pyro.inference.laplace import gain_gradients
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network import complexity
from bmrs_pyro.network.generators import generators_kept
from bmrs_pyro.path.point import PathPoint
from bmrs_pyro.path.reduction_run import ReductionRun
from bmrs_pyro.path.signature import digest
from bmrs_pyro.path.trainee import Refit
from bmrs_pyro.reduction import JointLoss, ModelReduction, bmrs_n, criterion_name, named_criterion
from bmrs_pyro.training.checkpoint import StateStore
from bmrs_pyro.training.cycle import Cycle
from bmrs_pyro.training.history import Epoch, History
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.loop import Batches
from bmrs_pyro.training.options import refuse_no_callbacks, refuse_no_flags, refuse_no_number, refuse_no_seed
from bmrs_pyro.training.validation import checked_score

ONE_BY_ONE = 512
"""Most examples for the gradients of a cut, where the network runs on one at a time."""


@dataclass(frozen=True)
class JointReduction:
    """How a trained network is reduced to a budget, inside one cycle of the learning rate.

    The first part of the cycle has several cuts, with training steps between them. Each cut removes the same share of
    the remaining cost, so that the last cut reaches the budget. The rest of the cycle trains the small network. Each
    cut computes the gradients of single examples again. They give the loss of log-likelihood from removing any set of
    structures, if the gains of the others adapt (:class:`JointLoss`). Structures are removed one by one, always the one
    with the least loss per cost, given those removed before. Then the adapted gains are multiplied into the weights,
    but not into frozen ones. The same gradients give Laplace's posteriors
    (:meth:`AutoTruncatedLogNormal.from_laplace`), and with them the evidence ΔF of each structure alone, for reports.

    Attributes:
        loader: training batches of one pass.
        validation: batches that networks are scored on.
        epochs: total number of passes over the data; 0 makes the cuts without training.
        cycle: optimiser and learning rates of the steps.
        teacher: network for distillation, with half the weight of the loss; None for no distillation.
        criterion: scores single structures, for reports: a model reduction, or its name, such as ``"bmrs-u-8"``.
        cuts: number of cuts.
        share: share of the cycle that contains the cuts.
        batches: number of batches for the gradients of a cut, and for its score.
        seed: seed of all random numbers; None uses the generators' present state.
        progress: show a progress bar.
        callbacks: called with every epoch's record.

    Raises:
        ValueError: a number is out of range, or several processes are running.
        TypeError: the teacher is no network, the criterion is no model reduction, or the callbacks are no list of
            functions.
    """

    loader: Batches
    validation: Batches
    epochs: int = 15
    cycle: Cycle = field(default_factory=Cycle)
    teacher: nn.Module | None = None
    criterion: ModelReduction = field(default_factory=bmrs_n)
    cuts: int = 10
    share: float = 0.2
    batches: int = 32
    seed: int | None = 0
    progress: bool = True
    callbacks: Sequence[Callable[[Epoch], object]] = ()

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("cuts", 1), ("batches", 1)):
            refuse_no_number(name, getattr(self, name), least=least, whole=True)
        refuse_no_number("share", self.share)
        refuse_no_seed(self.seed)
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; it must lie between 0 and 1")
        if not isinstance(self.teacher, nn.Module | None):
            raise TypeError(
                f"teacher is a {type(self.teacher).__name__}; give a network, such as teacher=net"
            )
        if self.teacher is not None:
            refuse_meta("the teacher", self.teacher)
        object.__setattr__(self, "criterion", _judge(self.criterion))
        refuse_no_flags(self, ("progress",))
        refuse_no_callbacks(self.callbacks)
        if world_size() > 1:
            raise ValueError("a trained network is reduced by one process; start it without torchrun")

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches in a pass."""
        return count_batches("the training loader", self.loader)

    def settings(self) -> dict[str, Any]:
        """Return what has to be alike where a reduction is continued, as plain JSON types."""
        names = ("epochs", "cuts", "share", "batches", "seed")
        return {
            **{name: getattr(self, name) for name in names},
            **asdict(self.cycle),
            "criterion": criterion_name(self.criterion),
            "teacher": "none" if self.teacher is None else f"of digest {digest(self.teacher)}",
            "batches in an epoch": self.steps_per_epoch,
        }

    def run(
        self,
        model: SupervisedModel,
        limits: Limits,
        start: PathPoint,
        before: History,
        store: StateStore | None = None,
    ) -> tuple[Refit, tuple[PathPoint, ...]]:
        """Reduce a copy of a model's network to budgets; return the refit, and a point for every cut.

        Args:
            model: the trained model, which is not changed.
            limits: budgets that can be met, and multiples.
            start: costs and score of the network.
            before: masks of the structures that the network has, numbered as in the original network, and the epochs
                and scores of earlier reductions.
            store: saves the state after every epoch; an existing state is continued, and a finished one is loaded.
        """
        with generators_kept() if self.seed is not None else nullcontext():
            run = ReductionRun(self, model, before, store)
            return run.refit(start, limits), tuple(run.points)

    def loss(self, model: SupervisedModel) -> JointLoss:
        """Return the loss of log-likelihood from removing any set of structures, at the present weights.

        Raises:
            ValueError: there are no examples.
        """
        each = gain_gradients(model, self.loader, self.batches)  # a batch's, or a single example's
        found = [*islice(each, max(self.batches, ONE_BY_ONE))]
        if not found:
            raise ValueError("the training data hold no examples: a generator can be read only once")
        gradients = torch.cat(found)
        names = tuple(family.name for family in model.structures)
        return JointLoss(names, gradients, model.num_data / len(gradients), model.network.unadaptable)

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
            score=checked_score(model, validation),
        )


def _judge(criterion: object) -> ModelReduction:
    """Return a model reduction, or the one with this name."""
    named = isinstance(criterion, str) and criterion.startswith("bmrs-")
    judge = named_criterion(str(criterion)) if named else criterion
    if not isinstance(judge, ModelReduction):
        raise TypeError(
            f"criterion is {criterion!r}; of a trained network it only scores single structures for the report, so "
            "give a model reduction, such as 'bmrs-n' or 'bmrs-u-8'"
        )
    return judge
