"""The trainer: what one epoch does, and the state of a run between epochs."""

from __future__ import annotations

__all__ = ["Batches", "Trainer"]

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor
from torch.distributions import kl_divergence

from bmrs_pyro.distributed import (
    GlobalBatch,
    all_gather_int,
    all_reduce_sum_,
    broadcast_,
    global_batch_norm,
    rank,
    world_size,
)
from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.inference import posteriors
from bmrs_pyro.inference.elbo import MeanFieldELBO, NonFiniteLoss
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.inputs import inputs_on, pairs
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network import compact, producer_norms
from bmrs_pyro.network.nested import tensors_in
from bmrs_pyro.reduction import Criterion, KeepMask, WeightNorm, score_structures
from bmrs_pyro.training.checkpoint import TrainingState
from bmrs_pyro.training.history import Epoch, History
from bmrs_pyro.training.labels import labels_misfit, refuse_labels
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.optimiser import JointOptim
from bmrs_pyro.training.parts import Parts
from bmrs_pyro.training.progress import EpochBar
from bmrs_pyro.training.removal import remove_structures_
from bmrs_pyro.training.schedule import EpochPlan
from bmrs_pyro.training.shuffling import set_epoch
from bmrs_pyro.training.step_graph import Recorder, StepGraph
from bmrs_pyro.training.validation import validate

Batches = Iterable[Any]
_BEST = "best/"


@dataclass
class _Best:
    epoch: int
    score: float
    tensors: Mapping[str, Mapping[str, Tensor]]


class Trainer:
    """Epochs of SVI over one model, and the state between them."""

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
        self.best: _Best | None = None
        self.parts = Parts(model, guide)
        self._begun = False
        self.svi = SVI(model, guide, optim, MeanFieldELBO())
        self.recorder, self.labels_fit = recorder, False
        self.device = next(model.network.parameters()).device
        self.batch = GlobalBatch(self.device) if world_size() > 1 else None

    def epoch(self, plan: EpochPlan, loader: Batches, validation: Batches | None, bar: EpochBar) -> Epoch:
        """Make one epoch: steps, pruning where asked for (within the budgets at the last event), validation."""
        set_epoch(loader, plan.epoch)
        self.model.train()
        start = time.perf_counter()
        with global_batch_norm(self.model.network, self.batch):
            elbo, x, seen = self._steps(plan.epoch, loader, bar)
        seconds = time.perf_counter() - start
        found = posteriors(self.guide, x)
        removed = self._prune(found, plan.last) if plan.pruning else 0
        if removed:
            found = posteriors(self.guide, x)
        result = None
        if validation is not None:
            result = validate(self.model, {name: q.mean for name, q in found.items()}, validation)
        record = Epoch(
            epoch=plan.epoch,
            phase=plan.phase,
            elbo=elbo,
            kl=sum(kl_divergence(q, self.model.prior).sum().item() for q in found.values()),
            accuracy=result.accuracy if result else None,
            log_likelihood=result.log_likelihood if result else None,
            removed=removed,
            structures={structure.name: structure.size for structure in self.model.structures},
            learning_rate=plan.rate * self.optim.lr,
            seconds=seconds,
            examples=all_gather_int(seen),
            rmse=result.rmse if result else None,
            accuracy_error=result.accuracy_error if result else None,
            log_likelihood_error=result.log_likelihood_error if result else None,
        )
        self.history.epochs.append(record)
        self._remember(record, validation is not None)
        bar.finish(record)
        return record

    def _steps(self, epoch: int, loader: Batches, bar: EpochBar) -> tuple[float, Any, int]:
        """Return the mean ELBO, the last inputs and the number of examples that this process had."""
        total, steps, seen, x = 0.0, 0, 0, None
        checked = pyro.infer.util.is_validation_enabled()
        # recorded anew in every epoch: rates and structures change in between
        step = self.svi.step if self.recorder is None else StepGraph(self.svi, self.recorder).step
        for x, y in pairs(loader) if self.batch is None else self.batch.over(pairs(loader)):
            if not len(y):
                raise ValueError(f"the loader's batch {steps + 1} has no examples; leave such batches out")
            x = inputs_on(self.device, x)
            try:
                if not self.labels_fit:
                    classes = getattr(getattr(loader, "dataset", None), "num_classes", None)
                    refuse_labels(self.model, x, y.to(self.device), classes)
                    self.labels_fit = True
                # the first step of an epoch checks shapes and arguments for all of them
                with pyro.validation_enabled(checked and steps == 0):
                    if not self._begun:
                        self._begin(x)
                    loss = step(x, y.to(self.device, non_blocking=True))
            except (NonFiniteLoss, ValueError, IndexError, RuntimeError) as error:
                self._explain(error, x, y, f"epoch {epoch}, step {steps + 1}")
                raise
            weight = 1.0 if self.batch is None else self.batch.weight
            total, steps, seen = total - weight * loss, steps + 1, seen + len(y)
            bar.step(-loss)
        if not steps:
            raise ValueError("the loader gives no batches; are the data fewer than one batch with drop_last?")
        elbo = all_reduce_sum_(torch.tensor(total / steps, dtype=torch.float64)).item()
        return elbo, x, seen if self.batch is None else self.batch.seen

    def _explain(self, error: Exception, x: Any, y: Tensor, where: str) -> None:
        """Raise a clearer error than a step did, where there is one."""
        culprit = str(error) if isinstance(error, NonFiniteLoss) else None
        if isinstance(
            error, NonFiniteLoss | ValueError
        ):  # a distribution may notice NaN before there is a loss
            culprit = self._culprit(x) or culprit
        if culprit is not None:
            raise NonFiniteLoss(f"{where}: {culprit}") from None
        usable = self.device.type == "cpu"  # a GPU computes no more after a label out of range
        if self.labels_fit and usable and (misfit := labels_misfit(self.model, x, y)):
            raise ValueError(f"{where}: {misfit}") from None

    def _begin(self, x: Any) -> None:
        """With the first batch: agree on the draws, and on the parameters that are in Pyro's store alone."""
        self._begun = True
        self.model.draw_shape(x)
        if not all(all_gather_int(self.model.draws == "example")):
            self.model.draws = "batch"
        if self.parts.awaited or world_size() > 1:
            self.parts.make(x)

    def _culprit(self, x: Any) -> str | None:
        """Say which input or parameter is not finite, if one is."""
        if not all(tensor.isfinite().all() for tensor in tensors_in(x)):
            return "the data hold NaN or inf"
        # the optimiser knows none before its first step
        parameters = {**self.optim.parameters, **dict(self.model.network.net.named_parameters())}
        for name, parameter in parameters.items():
            if not parameter.isfinite().all():
                return f"parameter {name!r} holds NaN or inf; lower the learning rate"
        return None

    def _scores(self, found: Mapping[str, TruncatedLogNormal]) -> dict[str, Tensor]:
        """Ask the criterion, in one process for all, and take down what it says."""
        criterion = self.criterion
        if criterion is None:
            return {}
        scores = {name: torch.empty(q.batch_shape, dtype=torch.float64) for name, q in found.items()}
        if rank() == 0:
            if isinstance(criterion, WeightNorm):
                # the norms of the weights as they are now; the share is of the network at the start
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
                self.model.network, keep, scores, min_keep=self.min_keep, budgets=last
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

    def _remember(self, record: Epoch, chosen: bool) -> None:
        best = self.best
        if best is None or not chosen or record.score >= best.score or math.isnan(best.score):
            self.best = _Best(record.epoch, record.score, self.parts.copy())

    def seed(self, seed: int) -> None:
        """Seed the gains alike in every process, and what else is random, such as dropout, apart."""
        pyro.set_rng_seed((seed + rank() * 2_654_435_769) % 2**32)
        if self.batch is not None:
            self.batch.seed(seed)

    def align(self) -> None:
        """Start all processes from the first one's weights and posteriors.

        Raises:
            ValueError: they have trained for different numbers of epochs.
        """
        epochs = all_gather_int(len(self.history))
        if len(set(epochs)) > 1:
            raise ValueError(
                f"the processes found {epochs} epochs in their checkpoints; all of them must see the same run directory"
            )
        self.parts.align()

    def state(self) -> TrainingState:
        """Return all that a continued run needs, as plain tensors and records."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            "scores": {name: scores.clone() for name, scores in self.history.scores.items()},
            **self.parts.copy(),
            **{f"optim/{name}": state for name, state in self.optim.get_state().items()},
        }
        if self.best is not None:
            tensors |= {f"{_BEST}{part}": values for part, values in self.best.tensors.items()}
        best = (self.best.epoch, self.best.score) if self.best is not None else None
        return TrainingState(self.history.keep, tuple(self.history.epochs), best, tensors)

    def restore(self, state: TrainingState) -> None:
        """Shrink to the state's structures and take up its values."""
        if state.keep.removed:
            self._remove(state.keep, None)
        self.parts.load(state.tensors)
        prefix = "optim/"
        self.optim.set_state(
            {
                name.removeprefix(prefix): part
                for name, part in state.tensors.items()
                if name.startswith(prefix)
            }
        )
        scores = {name: scores.clone() for name, scores in state.tensors["scores"].items()}
        self.history = History(state.keep, list(state.epochs), scores)
        if state.best is not None:
            best = {
                name.removeprefix(_BEST): part
                for name, part in state.tensors.items()
                if name.startswith(_BEST)
            }
            self.best = _Best(*state.best, best)

    def finish(self, loader: Batches) -> None:
        """Give network, guide and likelihood the best epoch's parameters, and the history the small network."""
        if self.best is None:
            return
        if self.parts.awaited and not self._begun:  # all epochs were done already
            self._begin(inputs_on(self.device, next(iter(pairs(loader)))[0]))
        self.parts.load(self.best.tensors)
        self.history.best_epoch = self.best.epoch
        if isinstance(self.guide, AutoTruncatedLogNormal):
            found = self.guide.posteriors()
            self._scores(found)
            self.history.network = compact(
                self.model.network, {}, {name: q.mean for name, q in found.items()}
            )
