"""Training: epochs of SVI, each followed by a reduction of the weights."""

from __future__ import annotations

__all__ = ["WeightEpoch", "fit_weights"]

import re
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.infer import ELBO, SVI
from torch import Tensor, nn

from bmrs_pyro.inference import MeanFieldELBO
from bmrs_pyro.inference.inputs import refuse_untrainable
from bmrs_pyro.inference.observations import misfit_of, validated
from bmrs_pyro.network.untouched import modes_kept, shared_copy
from bmrs_pyro.training import Checkpoint, JointOptim, StateStore, linear_decay, refuse_unusable
from bmrs_pyro.training.checkpoint import refuse_no_store
from bmrs_pyro.training.counts import warn_of_num_data
from bmrs_pyro.training.history import Record
from bmrs_pyro.training.labels import warn_of_probabilities
from bmrs_pyro.training.loop import Batches, Loop
from bmrs_pyro.training.options import refuse_no_callbacks, refuse_no_number
from bmrs_pyro.training.parts import Parts
from bmrs_pyro.training.progress import EpochBar
from bmrs_pyro.training.validation import validate_predictions
from bmrs_pyro.weights.adabelief import AdaBelief
from bmrs_pyro.weights.guide import MeanField, refuse_other_guide
from bmrs_pyro.weights.model import WeightModel
from bmrs_pyro.weights.prediction import mean_network
from bmrs_pyro.weights.pruning import reduce_
from bmrs_pyro.weights.rules import Rule, refuse_no_rule

CLEAR, LEAST = 0.05, 10.0
"""Share of the ELBO, and nats, by which it may fall from before the first reduction to the end without a warning."""

LAST = 5
"""Number of epochs whose median ELBO is compared."""


@dataclass(frozen=True)
class WeightEpoch(Record):
    """Record of one epoch.

    Attributes:
        epoch: from 1.
        elbo: mean over the steps, nats.
        active: share of the random weights that are not pruned.
        seconds: of the steps.
        reduction_seconds: of the reduction after them.
        examples: training examples that each process had, by rank.
        accuracy: of the network at the posterior mean, after the reduction, on the validation data; None without
            validation data or without classes.
        log_likelihood: likewise, mean log p(y | x), nats per example.
        rmse: likewise, root mean square of y − E[y | x], None for classes.
        accuracy_error, log_likelihood_error, rmse_error: standard errors over the validation examples.
    """

    epoch: int
    elbo: float
    active: float
    seconds: float
    reduction_seconds: float
    examples: Sequence[int] = ()
    accuracy: float | None = None
    log_likelihood: float | None = None
    rmse: float | None = None
    accuracy_error: float | None = None
    log_likelihood_error: float | None = None
    rmse_error: float | None = None

    @property
    def status(self) -> str:
        """What the progress bar shows."""
        return f"ELBO {self.elbo:.4g}{self.quality}  weights {self.active:.1%}"


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
    device: str | None = None,
    validation: Batches | None = None,
    progress: bool = True,
    callbacks: Sequence[Callable[[WeightEpoch], object]] = (),
    checkpoint: StateStore | None = None,
) -> list[WeightEpoch]:
    """Fit the posterior of the weights by SVI; a rule prunes after every epoch but the last.

    At the end the model and its guide have the parameters of the epoch with the best validation score since the last
    pruning; without validation data, of the last epoch. With several processes of torch.distributed, each process calls
    this with its part of every batch, as for :func:`bmrs_pyro.fit`. Every process draws its own weights, so a step
    averages as many draws as there are processes.

    Args:
        model: its gains become 0 where weights are pruned.
        guide: a :class:`MeanField`, or a :class:`PointEstimate` (then with ``elbo=Trace_ELBO()`` and no rule).
        batches: ``(x, y)``; if it or its sampler has ``set_epoch``, that is called with the epoch's number.
        epochs: number of epochs.
        rule: pruning rule, such as :class:`SpikeAndSlab`; None prunes nothing.
        warm_up: epochs without pruning at the start, when the posterior has not converged enough to give evidence.
        prune_last: whether the last layer is reduced too.
        optim: optimiser; by default AdaBelief at 1e-2.
        elbo: objective; by default the mean-field ELBO with every KL closed.
        estimator: gradient estimator such as :class:`Flipout`; None draws once per batch.
        schedule: maps the share of epochs done to a factor on the learning rates.
        seed: seeds every epoch from (seed, epoch), and restores the generators at the end; None uses the generators
            as they are.
        device: where to train; by default where the network is.
        validation: batches that choose the best epoch, by the network at the posterior mean.
        progress: show a progress bar.
        callbacks: called with every epoch's record, in every process.
        checkpoint: store that saves the state after every epoch; training resumes from a saved state, with the same
            layers, optimiser, rule, warm_up, prune_last and seed.

    Returns:
        the records.

    Raises:
        TypeError: the model is no WeightModel, the guide is no module, the optimiser is no JointOptim, the ELBO or the
            rule is none, or there is one, but the guide is no MeanField.
        ValueError: there are no epochs or no batches, the warm-up is negative, the guide is another model's, the
            processes have different numbers of batches, the saved state is another run's, gradients are switched off,
            or the weights are float16.
        NonFiniteLoss: the loss is NaN or infinite; the message names the epoch, the step and the cause.
        LostProcess: another process has died.
    """
    if not isinstance(model, WeightModel):
        raise TypeError(f"model is a {type(model).__name__}; fit_weights() trains a WeightModel")
    refuse_untrainable(model)
    refuse_other_guide(model.layers, guide)
    for name, value, least in (("epochs", epochs, 1), ("warm_up", warm_up, 0)):
        refuse_no_number(name, value, least=least, whole=True)
    if rule is not None:
        _check_rule(model, guide, rule, prune_last, epochs - 1 - warm_up)
    refuse_no_callbacks(callbacks)
    refuse_no_store(checkpoint)
    if device is not None:
        refuse_unusable(device)
        model.to(device)
        guide.to(device)
    if not isinstance(optim, JointOptim | None):
        raise TypeError(
            f"optim is a {type(optim).__name__}; give a JointOptim, such as JointOptim(AdaBelief, {{'lr': 1e-2}})"
        )
    if not isinstance(elbo, ELBO | None):
        raise TypeError(f"elbo is {elbo!r}; give an object, such as Trace_ELBO()")
    if optim is None:
        optim = JointOptim(AdaBelief, {"lr": 1e-2}, network=model.net, posterior_lr_factor=1.0)
    if isinstance(checkpoint, Checkpoint):
        checkpoint = replace(checkpoint, record=WeightEpoch)
    run = _Trainer(model, guide, SVI(model, guide, optim, elbo or MeanFieldELBO()))
    run.settings |= {
        # a rule's functions have other addresses in another process
        "rule": re.sub(r" at 0x\w+", "", repr(rule)),
        "warm_up": str(warm_up),
        "prune_last": str(prune_last),
        "seed": str(seed),
    }
    run.start(checkpoint)

    def epoch(number: int, bar: EpochBar) -> WeightEpoch:
        optim.scale_rates(schedule((number - 1) / epochs))
        with estimator or nullcontext():
            steps = run.steps(number, batches, bar)
        start = time.perf_counter()
        if rule is not None and warm_up < number < epochs:
            run.prune(rule, last=prune_last)
        record = WeightEpoch(
            epoch=number,
            elbo=steps.elbo,
            active=(model.gain > 0).float().mean().item(),
            seconds=steps.seconds,
            reduction_seconds=time.perf_counter() - start,
            examples=steps.examples,
            **({} if validation is None else run.validate(validation)),
        )
        return run.note(record, bar, chosen=validation is not None)

    optim.global_batch = run.batch
    try:
        run.run(
            epoch, epochs, batches, seed=seed, progress=progress, callbacks=callbacks, checkpoint=checkpoint
        )
    finally:
        optim.global_batch = None
    if rule is not None:
        _warn_of_nothing_left(model)
        _warn_of_lower_elbo(run.records, warm_up)
    return run.records


def _check_rule(model: WeightModel, guide: nn.Module, rule: Rule, prune_last: bool, reductions: int) -> None:
    if not isinstance(guide, MeanField):
        raise TypeError(f"guide is a {type(guide).__name__}; a rule needs the posterior of a MeanField guide")
    refuse_no_rule(rule)
    if len(model.layers) == 1 and not prune_last:
        warnings.warn(
            "the rule prunes nothing, because the only layer with random weights is the last one: pass prune_last=True",
            stacklevel=3,
        )
    if reductions < 1:
        warnings.warn(
            "the rule prunes nothing, because no epoch follows the warm-up but the last one, after which nothing is "
            "pruned: give more epochs, or a shorter warm_up",
            stacklevel=3,
        )


def _warn_of_nothing_left(model: WeightModel) -> None:
    """Warn of layers that have lost all their weights, because nothing passes through them any more."""
    empty = []
    for layer in model.layers:
        matrices = [part for part in layer.parameters(model.active[layer.name]).values() if part.dim() > 1]
        if matrices and not any(bool(part.any()) for part in matrices):  # biases pass nothing on
            empty.append(layer)
    if empty:
        warnings.warn(
            f"all weights of {', '.join(layer.name for layer in empty)} are pruned, so that the network may predict "
            "a constant. If the inputs say something about the labels, start from a point estimate (guide.loc = "
            "point.loc.detach()), train longer before the first reduction (warm_up), or try SpikeAndSlab('row')",
            stacklevel=3,
        )


def _warn_of_lower_elbo(records: Sequence[WeightEpoch], warm_up: int) -> None:
    """Warn if the ELBO after pruning is clearly lower than before: then the evidence is against the sparse network."""
    before, after = (
        statistics.median(record.elbo for record in part[-LAST:])
        for part in (records[: warm_up + 1], records[warm_up + 1 :] or records)
    )
    if records[-1].active < records[0].active and after < before - max(CLEAR * abs(before), LEAST):
        warnings.warn(
            f"the ELBO fell from {before:.4g} nats before the first reduction to {after:.4g}: the weights that were "
            "pruned were needed together; try SpikeAndSlab('row'), or a longer warm_up",
            stacklevel=3,
        )


class _Trainer(Loop[WeightEpoch]):
    def __init__(self, model: WeightModel, guide: Any, svi: SVI) -> None:
        self.model, self.guide, self._records = model, guide, list[WeightEpoch]()
        parts = Parts(
            model,
            guide,
            {"model": model},
            lambda x: (model.draw(), model.likelihood(shared_copy(model.net)(x))),
        )
        super().__init__(svi, parts, model.net)

    @property
    def records(self) -> list[WeightEpoch]:
        return self._records

    def prune(self, rule: Rule, *, last: bool) -> None:
        if reduce_(self.model, self.guide, rule, last=last):
            self.best = None
        self.parts.align()  # rounding differs between machines

    def check(self, x: Any, y: Tensor, loader: Batches) -> None:
        """Warn of a wrong number of examples, and of probabilities in place of logits."""
        if not self._begun:
            warn_of_num_data(self.model.num_data, loader)
            warn_of_probabilities(self.model, self.model.net, self.model.likelihood, x)

    def explain(self, x: Any, y: Tensor) -> str | None:
        """Return a message about labels that do not fit the likelihood."""
        if y.device.type != "cpu":  # after a label out of range, CUDA calls fail
            return None
        with torch.no_grad(), modes_kept(self.model), validated(True):
            return misfit_of(self.model.likelihood(self.model.net.eval()(x)), y)

    def validate(self, batches: Batches) -> dict[str, float | None]:
        net = mean_network(self.model, self.guide).eval()
        return validate_predictions(lambda x: self.model.likelihood(net(x)), self.model, batches)._asdict()
