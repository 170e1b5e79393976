"""The trainer of gains: pruning and validation after the steps of an epoch, and the small network at the end."""

from __future__ import annotations

__all__ = ["Trainer"]

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor
from torch.distributions import kl_divergence

from bmrs_pyro.distributed import all_gather_int, broadcast_, rank
from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.inference import posteriors
from bmrs_pyro.inference.draws import parse_draws
from bmrs_pyro.inference.elbo import MeanFieldELBO
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network import compact, producer_norms
from bmrs_pyro.network.untouched import shared_copy
from bmrs_pyro.reduction import Criterion, KeepMask, ModelReduction, WeightNorm, score_structures
from bmrs_pyro.training.checkpoint import TrainingState
from bmrs_pyro.training.counts import warn_of_num_data
from bmrs_pyro.training.history import Epoch, History
from bmrs_pyro.training.labels import (
    labels_misfit,
    refuse_labels,
    warn_of_probabilities,
    warn_of_units,
    warn_of_untrained,
)
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.loop import Batches, Loop
from bmrs_pyro.training.optimiser import JointOptim
from bmrs_pyro.training.parts import Parts
from bmrs_pyro.training.progress import EpochBar
from bmrs_pyro.training.removal import remove_structures_
from bmrs_pyro.training.schedule import EpochPlan
from bmrs_pyro.training.step_graph import Recorder, StepGraph
from bmrs_pyro.training.validation import Score, validate


class Trainer(Loop[Epoch]):
    """Epochs of SVI over a model of gains."""

    def __init__(
        self,
        model: SupervisedModel,
        guide: Callable[..., Any],
        optim: JointOptim,
        criterion: Criterion | None,
        min_keep: int,
        limits: Limits,
        recorder: Recorder | None = None,
    ) -> None:
        self.model, self.guide, self.optim = model, guide, optim
        self.criterion, self.min_keep, self.limits = criterion, min_keep, limits
        self.history = History(
            keep=KeepMask({s.name: torch.ones(s.size, dtype=torch.bool) for s in model.structures})
        )
        self.recorder, self.labels_fit = recorder, False
        parts = Parts(
            model,
            guide,
            {"network": model.network, "likelihood": model.likelihood},
            lambda x: model.likelihood(shared_copy(model.network)(x)),
        )
        super().__init__(SVI(model, guide, optim, MeanFieldELBO()), parts, model.network.net)
        self.labels_checked = recorder is not None  # a recorded step cannot wait for a check

    @property
    def records(self) -> list[Epoch]:
        """The epochs so far."""
        return self.history.epochs

    def epoch(self, plan: EpochPlan, loader: Batches, validation: Batches | None, bar: EpochBar) -> Epoch:
        """Make one epoch: steps, pruning if planned (within the budgets at the last event), validation."""
        steps = self.steps(plan.epoch, loader, bar)
        found = posteriors(self.guide, steps.x)
        removed = self._prune(found, plan.last) if plan.pruning else 0
        if removed:
            found = posteriors(self.guide, steps.x)
        score: Score | None = None
        if validation is not None:
            score = validate(self.model, {name: q.mean for name, q in found.items()}, validation)
        record = Epoch(
            epoch=plan.epoch,
            phase=plan.phase,
            elbo=steps.elbo,
            kl=sum(kl_divergence(q, self.model.prior).sum().item() for q in found.values()),
            removed=removed,
            structures={structure.name: structure.size for structure in self.model.structures},
            learning_rate=plan.rate * self.optim.lr,
            seconds=steps.seconds,
            examples=steps.examples,
            parameters=sum(weight.numel() for weight in self.model.network.net.parameters()),
            **(score._asdict() if score else {"accuracy": None, "log_likelihood": None}),
        )
        return self.note(record, bar, chosen=score is not None)

    def step(self) -> Callable[[Any, Tensor], float]:
        """Return the function that makes one step and returns its loss."""
        # recorded again in every epoch: rates and structures change between epochs
        return super().step() if self.recorder is None else StepGraph(self.svi, self.recorder).step

    def check(self, x: Any, y: Tensor, loader: Batches) -> None:
        """Refuse the first batch if its labels do not fit the likelihood."""
        if not self.labels_fit:
            classes = getattr(getattr(loader, "dataset", None), "num_classes", None)
            refuse_labels(self.model, x, y.to(self.device), classes)
            warn_of_num_data(self.model.num_data, loader)
            warn_of_probabilities(self.model, self.model.network, self.model.likelihood, x)
            warn_of_units(self.model, x, y.to(self.device))
            warn_of_untrained(self.model, x, y.to(self.device))
            self.labels_fit = True

    def explain(self, x: Any, y: Tensor) -> str | None:
        """Return a message about labels that do not fit the likelihood."""
        usable = self.device.type == "cpu"  # after a label out of range, CUDA calls fail
        with pyro.validation_enabled():  # steps are made without
            return labels_misfit(self.model, x, y) if self.labels_fit and usable else None

    def begin(self, x: Any) -> None:
        """With the first batch: agree also on the shape of the draws, in all processes."""
        self.model.draw_shape(x)
        draws = self.model.draws
        mine = draws if isinstance(draws, int) else 1 if draws == "batch" else sys.maxsize
        if (fewest := min(all_gather_int(mine))) != mine:
            self.model.draws = parse_draws(fewest)
        # does not advance the generator of the whole batch's gains
        batch, self.model.global_batch = self.model.global_batch, None
        try:
            super().begin(x)
        finally:
            self.model.global_batch = batch

    def _scores(self, found: Mapping[str, TruncatedLogNormal]) -> dict[str, Tensor]:
        """Apply the criterion in the first process, share its scores with the others, and record them."""
        criterion = self.criterion
        if criterion is None:
            return {}
        scores = {name: torch.empty(q.batch_shape, dtype=torch.float64) for name, q in found.items()}
        if rank() == 0:
            if isinstance(criterion, WeightNorm):
                # the norms of the present weights; the share refers to the network at the start
                norms = producer_norms(self.model.network)
                criterion = replace(criterion, norms=norms, total=self.history.keep.total)
            for name, values in score_structures(found, self.model.prior, criterion).items():
                scores[name].copy_(values)
        broadcast_(scores.values())
        self.history.note_scores(scores)
        return scores

    def _prune(self, found: Mapping[str, TruncatedLogNormal], last: bool) -> int:
        scores = self._scores(found)
        masks = {name: torch.empty(values.shape, dtype=torch.bool) for name, values in scores.items()}
        if rank() == 0:
            keep = KeepMask.from_scores(scores, min_keep=self.min_keep)
            masks |= self.limits.applied(
                self.model.network,
                keep,
                scores,
                min_keep=self.min_keep,
                budgets=last,
                # ΔF is in nats of KL; the KL weight turns these into nats of log-likelihood
                units=self.model.kl_scales if isinstance(self.criterion, ModelReduction) else None,
            )
        broadcast_(masks.values())
        keep = KeepMask(masks)
        if keep.removed:
            self._remove(keep, self.optim)
            self.history.keep = self.history.keep.then(keep)
            self.best = None
        return keep.removed

    def _remove(self, keep: KeepMask, optim: JointOptim | None) -> None:
        if not isinstance(self.guide, AutoTruncatedLogNormal):
            raise TypeError(
                f"a {type(self.guide).__name__} cannot shrink in training; use AutoTruncatedLogNormal"
            )
        remove_structures_(self.model, self.guide, keep, optim)

    def state(self) -> TrainingState:
        """Return the state from which a run continues, as plain tensors and records."""
        state = super().state()
        scores = {name: scores.clone() for name, scores in self.history.scores.items()}
        return replace(state, keep=self.history.keep, tensors={"scores": scores, **state.tensors})

    def restore(self, state: TrainingState) -> None:
        """Shrink to the state's structures and load its values."""
        if state.keep.removed:
            self._remove(state.keep, None)
        scores = {name: scores.clone() for name, scores in state.tensors["scores"].items()}
        self.history = History(state.keep, scores=scores)
        super().restore(state)

    def finish(self, loader: Batches) -> None:
        """Load the best epoch's parameters, and add the small network to the history."""
        super().finish(loader)
        if self.best is None:
            return
        self.history.best_epoch = self.best.epoch
        if isinstance(self.guide, AutoTruncatedLogNormal):
            found = self.guide.posteriors()
            self._scores(found)
            self.history.network = compact(
                self.model.network, {}, {name: q.mean for name, q in found.items()}
            )
