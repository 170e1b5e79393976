"""Training: epochs of SVI, each followed by a reduction of the weights."""

from __future__ import annotations

__all__ = ["WeightEpoch", "fit_weights"]

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pyro
from pyro.infer import ELBO, SVI
from torch import Tensor, nn

from bmrs_pyro.inference import MeanFieldELBO, NonFiniteLoss
from bmrs_pyro.inference.generators import generators_kept
from bmrs_pyro.training import JointOptim, linear_decay
from bmrs_pyro.training.shuffling import set_epoch
from bmrs_pyro.weights.adabelief import AdaBelief
from bmrs_pyro.weights.guide import MeanField
from bmrs_pyro.weights.model import WeightModel
from bmrs_pyro.weights.pruning import reduce_
from bmrs_pyro.weights.rules import Rule

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class WeightEpoch:
    """Record of one epoch.

    Attributes:
        epoch: from 1.
        elbo: mean over the steps, nats.
        active: share of the random weights that are not pruned.
        seconds: of the steps.
        reduction_seconds: of the reduction after them.
    """

    epoch: int
    elbo: float
    active: float
    seconds: float
    reduction_seconds: float


def fit_weights(
    model: WeightModel,
    guide: nn.Module,
    batches: Batches,
    *,
    epochs: int,
    rule: Rule | None = None,
    warm_up: int = 0,
    prune_last: bool = False,
    optim: JointOptim | None = None,
    elbo: ELBO | None = None,
    estimator: AbstractContextManager[object] | None = None,
    schedule: Callable[[float], float] = linear_decay,
    seed: int | None = 0,
    callbacks: Sequence[Callable[[WeightEpoch], object]] = (),
) -> list[WeightEpoch]:
    """Fit the posterior of the weights by SVI, and let a rule prune after every epoch but the last.

    Args:
        model: its gains become 0 where weights are pruned.
        guide: a :class:`MeanField`, or a :class:`PointEstimate` (then with ``elbo=Trace_ELBO()`` and no rule).
        batches: ``(x, y)``; where it or its sampler has ``set_epoch`` that is called with the epoch's number.
        epochs: how many.
        rule: what prunes, such as :class:`SpikeAndSlab`; None leaves all weights.
        warm_up: epochs without pruning at the start: a posterior still on its way says little about the evidence.
        prune_last: whether the last layer is reduced too.
        optim: optimiser; by default AdaBelief at 1e-2.
        elbo: objective; by default the mean-field ELBO with every KL closed.
        estimator: gradient estimator such as :class:`Flipout`; None draws once per batch.
        schedule: factor of the learning rates by share of epochs done.
        seed: seeds every epoch from (seed, epoch), and the generators are as before at the end; None draws from them as
            they are.
        callbacks: called with every epoch's record.

    Returns:
        the records.

    Raises:
        TypeError: a rule meets a guide that is no MeanField.
        ValueError: no epochs, or no batches.
        NonFiniteLoss: the loss is NaN or infinite.
    """
    if rule is not None and not isinstance(guide, MeanField):
        raise TypeError(f"guide is a {type(guide).__name__}; a rule needs the posterior of a MeanField guide")
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; it must be at least 1")
    if optim is None:
        optim = JointOptim(AdaBelief, {"lr": 1e-2}, network=model.net, posterior_lr_factor=1.0)
    svi = SVI(model, guide, optim, elbo or MeanFieldELBO())
    history = []
    generators = generators_kept() if seed is not None else nullcontext()
    # a store of its own: names in the global one may belong to another model
    with generators, pyro.get_param_store().scope():
        for epoch in range(1, epochs + 1):
            if seed is not None:
                pyro.set_rng_seed((seed * 1_000_003 + epoch) % 2**32)
            set_epoch(batches, epoch)
            optim.scale_rates(schedule((epoch - 1) / epochs))
            start = time.perf_counter()
            with estimator or nullcontext():
                loss = _mean_loss(svi, batches, epoch)
            stop = time.perf_counter()
            if rule is not None and warm_up < epoch < epochs:
                reduce_(model, guide, rule, last=prune_last)  # type: ignore[arg-type]
            record = WeightEpoch(
                epoch=epoch,
                elbo=-loss,
                active=(model.gain > 0).float().mean().item(),
                seconds=stop - start,
                reduction_seconds=time.perf_counter() - stop,
            )
            history.append(record)
            for callback in callbacks:
                callback(record)
    return history


def _mean_loss(svi: SVI, batches: Batches, epoch: int) -> float:
    losses: list[float] = []
    checked = pyro.infer.util.is_validation_enabled()
    for x, y in batches:
        # the first step of an epoch checks shapes and arguments for all of them
        with pyro.validation_enabled(checked and not losses):
            losses.append(svi.step(x, y))
        if not math.isfinite(losses[-1]):
            raise NonFiniteLoss(f"epoch {epoch}, step {len(losses)}: the loss is {losses[-1]}")
    if not losses:
        raise ValueError("there are no batches; is the data set smaller than one batch with drop_last?")
    return sum(losses) / len(losses)
