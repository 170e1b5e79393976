"""The loop that all fits share: epochs of SVI, the best of them, and the state between two."""

from __future__ import annotations

__all__ = ["Batches", "Loop"]

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor, nn

from bmrs_pyro.distributed import (
    GlobalBatch,
    all_gather_int,
    all_reduce_sum_,
    global_batch_norm,
    rank,
    world_size,
)
from bmrs_pyro.inference.elbo import NonFiniteLoss
from bmrs_pyro.inference.inputs import inputs_on, pairs
from bmrs_pyro.network.generators import generators_kept
from bmrs_pyro.network.nested import tensors_in
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.training.checkpoint import StateStore, TrainingState
from bmrs_pyro.training.history import Record
from bmrs_pyro.training.parts import Parts
from bmrs_pyro.training.progress import EpochBar
from bmrs_pyro.training.shuffling import set_epoch

Batches = Iterable[Any]
R = TypeVar("R", bound=Record)
_BEST, _OPTIM = "best/", "optim/"


@dataclass
class _Best:
    epoch: int
    score: float
    tensors: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Steps:
    """What the steps of an epoch gave.

    Attributes:
        elbo: mean over them, nats.
        x: the last inputs.
        seconds: how long they took.
        examples: how many each process had, by rank.
    """

    elbo: float
    x: Any
    seconds: float
    examples: list[int]


class Loop(ABC, Generic[R]):
    """Epochs of SVI over one model; a subclass says what follows the steps of an epoch.

    Args:
        svi: model, guide, optimiser and objective.
        parts: all that is trained.
        net: the network, on the device that batches are moved to.
    """

    def __init__(self, svi: SVI, parts: Parts, net: nn.Module) -> None:
        self.svi, self.parts, self.net = svi, parts, net
        self.best: _Best | None = None
        self._begun = False
        self.device = next(net.parameters()).device
        self.batch = GlobalBatch(self.device) if world_size() > 1 else None

    @property
    @abstractmethod
    def records(self) -> list[R]:
        """The epochs so far."""

    def check(self, x: Any, y: Tensor, loader: Batches) -> None:
        """Refuse a batch that does not fit the model."""

    def explain(self, x: Any, y: Tensor) -> str | None:
        """Say what about a batch makes a step fail, where that is known."""

    def step(self) -> Callable[[Any, Tensor], float]:
        """Return what makes the steps of an epoch and gives their loss."""
        return self.svi.step

    def run(
        self,
        epoch: Callable[[int, EpochBar], R],
        total: int,
        loader: Batches,
        *,
        seed: int | None,
        progress: bool | str,
        callbacks: Sequence[Callable[[R], object]],
        checkpoint: StateStore | None,
        store: AbstractContextManager[None] | None = None,
    ) -> None:
        """Make the epochs that are not in the records yet, then take up the best one's parameters.

        Args:
            epoch: makes the epoch of a number, from 1.
            total: number of the last epoch.
            loader: the batches.
            seed: seeds every epoch from (seed, epoch); None draws from the generators as they are.
            progress: show a progress bar; a text names it.
            callbacks: called with every epoch's record.
            checkpoint: where the state is kept.
            store: Pyro's parameter store to use; by default one of this model's own.
        """
        generators = generators_kept() if seed is not None else nullcontext()
        bar = EpochBar(
            total,
            loader,
            enabled=bool(progress) and rank() == 0 and len(self.records) < total,
            done=len(self.records),
            title=progress if isinstance(progress, str) else "",
        )
        with generators, store or self.parts.own_store(), bar:
            for number in range(len(self.records) + 1, total + 1):
                if seed is not None:
                    self.seed((seed * 1_000_003 + number) % 2**32)
                record = epoch(number, bar)
                for callback in callbacks:
                    callback(record)
                if checkpoint is not None and rank() == 0:
                    checkpoint.save(self.state())
            self.finish(loader)

    def steps(self, epoch: int, loader: Batches, bar: EpochBar) -> Steps:
        """Make the steps of an epoch."""
        set_epoch(loader, epoch)
        self.svi.model.train()
        start = time.perf_counter()
        with global_batch_norm(self.net, self.batch):
            elbo, x, seen = self._steps(epoch, loader, bar)
        return Steps(elbo, x, time.perf_counter() - start, all_gather_int(seen))

    def _steps(self, epoch: int, loader: Batches, bar: EpochBar) -> tuple[float, Any, int]:
        """Return the mean ELBO, the last inputs and the number of examples that this process had."""
        total, steps, seen, x = 0.0, 0, 0, None
        checked = pyro.infer.util.is_validation_enabled()
        step = self.step()
        for x, y in pairs(loader) if self.batch is None else self.batch.over(pairs(loader)):
            if not len(y):
                raise ValueError(f"the loader's batch {steps + 1} has no examples; leave such batches out")
            x = inputs_on(self.device, x)
            try:
                self.check(x, y, loader)
                # the first step of an epoch checks shapes and arguments for all of them
                with pyro.validation_enabled(checked and steps == 0):
                    if not self._begun:
                        self.begin(x)
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
        # a distribution may notice NaN before there is a loss
        if isinstance(error, NonFiniteLoss | ValueError):
            culprit = self._culprit(x) or culprit
        if culprit is not None:
            raise NonFiniteLoss(f"{where}: {culprit}") from None
        if misfit := self.explain(x, y):
            raise ValueError(f"{where}: {misfit}") from None

    def _culprit(self, x: Any) -> str | None:
        """Say which input or parameter is not finite, if one is."""
        if not all(tensor.isfinite().all() for tensor in tensors_in(x)):
            return "the data hold NaN or inf"
        # the optimiser knows none before its first step
        parameters = {**self.svi.optim.parameters, **dict(self.net.named_parameters())}
        for name, parameter in parameters.items():
            if not parameter.isfinite().all():
                return f"parameter {name!r} holds NaN or inf; lower the learning rate"
        return None

    def begin(self, x: Any) -> None:
        """With the first batch: agree on the parameters that are in Pyro's store alone."""
        self._begun = True
        if self.parts.awaited or world_size() > 1:
            self.parts.make(x)

    def note(self, record: R, bar: EpochBar, *, chosen: bool) -> R:
        """Take down an epoch, and keep its parameters where no epoch before was better.

        Args:
            record: of the epoch.
            bar: shows it.
            chosen: whether the best epoch is looked for; else it is the last.
        """
        self.records.append(record)
        best = self.best
        if best is None or not chosen or record.score >= best.score or math.isnan(best.score):
            self.best = _Best(record.epoch, record.score, self.parts.copy())
        bar.finish(record)
        return record

    def seed(self, seed: int) -> None:
        """Seed the gains alike in every process, and what else is random, such as dropout, apart."""
        pyro.set_rng_seed((seed + rank() * 2_654_435_769) % 2**32)
        if self.batch is not None:
            self.batch.seed(seed)

    def start(self, checkpoint: StateStore | None) -> None:
        """Go on from a checkpoint, and start all processes from the first one's parameters.

        Raises:
            ValueError: they have trained for different numbers of epochs.
        """
        if checkpoint is not None and (state := checkpoint.load()) is not None:
            self.restore(state)
        epochs = all_gather_int(len(self.records))
        if len(set(epochs)) > 1:
            raise ValueError(
                f"the processes found {epochs} epochs in their checkpoints; all of them must see the same run directory"
            )
        self.parts.align()

    def state(self) -> TrainingState:
        """Return all that a continued run needs, as plain tensors and records."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            **self.parts.copy(),
            **{f"{_OPTIM}{name}": state for name, state in self.svi.optim.get_state().items()},
        }
        if self.best is not None:
            tensors |= {f"{_BEST}{part}": values for part, values in self.best.tensors.items()}
        best = (self.best.epoch, self.best.score) if self.best is not None else None
        return TrainingState(KeepMask({}), tuple(self.records), best, tensors)

    def restore(self, state: TrainingState) -> None:
        """Take up a state's records and values."""
        self.records[:] = state.epochs
        self.parts.load(state.tensors)
        self.svi.optim.set_state(_under(_OPTIM, state.tensors))
        if state.best is not None:
            self.best = _Best(*state.best, _under(_BEST, state.tensors))

    def finish(self, loader: Batches) -> None:
        """Take up the best epoch's parameters."""
        if self.best is None:
            return
        if self.parts.awaited and not self._begun:  # all epochs were done already
            self.begin(inputs_on(self.device, next(iter(pairs(loader)))[0]))
        self.parts.load(self.best.tensors)


def _under(prefix: str, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    return {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
