"""The training loop of all fits: epochs of SVI, the best epoch, and the state between epochs."""

from __future__ import annotations

__all__ = ["Batches", "Loop", "StopTraining"]

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
from bmrs_pyro.inference.inputs import inputs_on, labelled, pairs
from bmrs_pyro.inference.observations import validated
from bmrs_pyro.network.generators import generators_kept
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.training.checkpoint import CheckpointError, StateStore, TrainingState, layers_of, same_run
from bmrs_pyro.training.history import Record
from bmrs_pyro.training.parts import Parts
from bmrs_pyro.training.progress import EpochBar
from bmrs_pyro.training.shuffling import set_epoch
from bmrs_pyro.training.step_errors import clearer_error

Batches = Iterable[Any]
R = TypeVar("R", bound=Record)
_BEST, _OPTIM = "best/", "optim/"


class StopTraining(Exception):
    """Raised by a callback in all processes: the epoch that was just made is the last one."""


@dataclass
class _Best:
    epoch: int
    score: float
    tensors: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Steps:
    """The results of an epoch's steps.

    Attributes:
        elbo: mean ELBO over the steps, nats.
        x: the last inputs.
        seconds: duration of the steps.
        examples: number of examples of each process, by rank.
    """

    elbo: float
    x: Any
    seconds: float
    examples: list[int]


class Loop(ABC, Generic[R]):
    """Epochs of SVI over one model; a subclass defines what follows the steps of an epoch.

    Args:
        svi: model, guide, optimiser and objective.
        parts: all parameters that are trained.
        net: the network, on the device that batches are moved to.

    Attributes:
        settings: what has to be the same when the run continues from a saved state, as text.
        labels_checked: whether all labels are known to lie in the support of the likelihood, or must not be checked.
    """

    def __init__(self, svi: SVI, parts: Parts, net: nn.Module) -> None:
        self.svi, self.parts, self.net = svi, parts, net
        self.best: _Best | None = None
        self.settings = {"layers": layers_of(net), "optimiser": svi.optim.torch_optim_class.__name__}
        self._begun = self.labels_checked = False
        self.device = next(net.parameters()).device
        self.batch = GlobalBatch(self.device) if world_size() > 1 else None

    @property
    @abstractmethod
    def records(self) -> list[R]:
        """The epochs so far."""

    def check(self, x: Any, y: Tensor, loader: Batches) -> None:
        """Refuse a batch that does not fit the model."""

    def explain(self, x: Any, y: Tensor) -> str | None:
        """Return the reason why a step fails with a batch, if known."""

    def step(self) -> Callable[[Any, Tensor], float]:
        """Return the function that makes one step and returns its loss."""
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
        """Make the epochs that are not in the records yet, then load the parameters of the best epoch.

        Args:
            epoch: makes one epoch, given its number from 1.
            total: number of the last epoch.
            loader: the batches.
            seed: seeds every epoch from (seed, epoch); None uses the generators' present state.
            progress: show a progress bar; a text is its title.
            callbacks: called with every epoch's record; the run ends after an epoch in which one raises StopTraining.
            checkpoint: saves the state after every epoch.
            store: context with the parameter store of Pyro to use; by default a store for this model alone.
        """
        if len(self.records) > total:
            raise CheckpointError(
                f"the saved state has {len(self.records)} epochs, and {total} are asked for; give more, or another path"
            )
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
                stop = False
                for callback in callbacks:
                    try:
                        callback(record)
                    except StopTraining:
                        stop = True
                if checkpoint is not None and rank() == 0:
                    checkpoint.save(self.state())
                if stop:
                    break
            self.finish(loader)

    def steps(self, epoch: int, loader: Batches, bar: EpochBar) -> Steps:
        """Make the steps of an epoch."""
        set_epoch(loader, epoch)
        self.svi.model.train()
        start = time.perf_counter()
        with global_batch_norm(self.net, self.batch):
            elbo, x, seen = self._steps(epoch, loader, bar)
        return Steps(elbo, x, time.perf_counter() - start, all_gather_int(seen))

    @validated()  # as it was: Pyro's own context does not know what torch.compile has set
    def _steps(self, epoch: int, loader: Batches, bar: EpochBar) -> tuple[float, Any, int]:
        """Return the mean ELBO, the last inputs and the number of examples that this process had."""
        total, steps, seen, x = 0.0, 0, 0, None
        checked = pyro.infer.util.is_validation_enabled()
        unknown = checked and not self.labels_checked
        step = self.step()
        batches = labelled("training data", loader)
        for x, y in batches if self.batch is None else self.batch.over(batches):
            if not len(y):
                raise ValueError(f"the loader's batch {steps + 1} has no examples; leave such batches out")
            x = inputs_on(self.device, x)
            try:
                self.check(x, y, loader)
                # the first step of an epoch checks shapes and arguments for all of them
                with pyro.validation_enabled(checked and steps == 0), validated(unknown):
                    if not self._begun:
                        self.begin(x)
                    loss = step(x, y.to(self.device, non_blocking=True))
            except (NonFiniteLoss, ValueError, IndexError, RuntimeError) as error:
                # the optimiser has no parameters before its first step
                parameters = {**self.svi.optim.parameters, **dict(self.net.named_parameters())}
                clearer = clearer_error(error, x, y, parameters, self.explain)
                if clearer is None:
                    raise
                raise type(clearer)(f"epoch {epoch}, step {steps + 1}: {clearer}") from None
            weight = 1.0 if self.batch is None else self.batch.weight
            total, steps, seen = total - weight * loss, steps + 1, seen + len(y)
            bar.step(-loss)
        self.labels_checked = True
        if not steps:
            raise ValueError(
                "the loader gives no batches; can it be read only once, or is there less than a batch, with drop_last?"
            )
        elbo = all_reduce_sum_(torch.tensor(total / steps, dtype=torch.float64)).item()
        return elbo, x, seen if self.batch is None else self.batch.seen

    def begin(self, x: Any) -> None:
        """With the first batch: make the parameters that are only in Pyro's store, the same in every process."""
        self._begun = True
        if self.parts.awaited or world_size() > 1:
            self.parts.make(x)

    def note(self, record: R, bar: EpochBar, *, chosen: bool) -> R:
        """Record an epoch; keep its parameters if no earlier epoch was better, or if none is chosen by its score."""
        self.records.append(record)
        best = self.best
        if best is None or not chosen or record.score >= best.score or math.isnan(best.score):
            self.best = _Best(record.epoch, record.score, self.parts.copy())
        bar.finish(record)
        return record

    def seed(self, seed: int) -> None:
        """Seed the gains equally in all processes, and other random numbers, such as dropout, differently."""
        pyro.set_rng_seed((seed + rank() * 2_654_435_769) % 2**32)
        if self.batch is not None:
            self.batch.seed(seed)

    def start(self, checkpoint: StateStore | None) -> None:
        """Continue from a checkpoint, and start all processes from the first one's parameters.

        Raises:
            CheckpointError: the state is of another run.
            ValueError: the processes have trained for different numbers of epochs.
        """
        if checkpoint is not None and (state := checkpoint.load()) is not None:
            with same_run(checkpoint):
                state.refuse_others(self.settings)
                self.restore(state)
        epochs = all_gather_int(len(self.records))
        if len(set(epochs)) > 1:
            raise ValueError(
                f"the processes found {epochs} epochs in their checkpoints; all of them must see the same run directory"
            )
        self.parts.align()

    def state(self) -> TrainingState:
        """Return the state from which a run continues, as plain tensors and records."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            **self.parts.copy(),
            **{f"{_OPTIM}{name}": state for name, state in self.svi.optim.get_state().items()},
        }
        if self.best is not None:
            tensors |= {f"{_BEST}{part}": values for part, values in self.best.tensors.items()}
        best = (self.best.epoch, self.best.score) if self.best is not None else None
        return TrainingState(KeepMask({}), tuple(self.records), best, tensors, settings=self.settings)

    def restore(self, state: TrainingState) -> None:
        """Load a state's records and values."""
        self.records[:] = state.epochs
        self.parts.load(state.tensors)
        self.svi.optim.set_state(_under(_OPTIM, state.tensors))
        if state.best is not None:
            self.best = _Best(*state.best, _under(_BEST, state.tensors))

    def finish(self, loader: Batches) -> None:
        """Load the best epoch's parameters."""
        if self.best is None:
            return
        if self.parts.awaited and not self._begun:  # all epochs were done already
            self.begin(inputs_on(self.device, next(iter(pairs(loader)))[0]))
        self.parts.load(self.best.tensors)
        self.parts.fill()


def _under(prefix: str, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    return {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
