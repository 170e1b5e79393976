"""Training: epochs of SVI with continuous pruning, then fine-tuning."""

from __future__ import annotations

__all__ = ["fit", "linear_decay", "refuse_schedule"]

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import nn

from bmrs_pyro.distributed import rank, world_size
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.reduction import Criterion
from bmrs_pyro.training.checkpoint import Checkpoint
from bmrs_pyro.training.compilation import compile_network_, compile_steps_, uncompile_
from bmrs_pyro.training.freezing import frozen
from bmrs_pyro.training.history import Epoch, History
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.optimiser import JointOptim
from bmrs_pyro.training.progress import EpochBar
from bmrs_pyro.training.step_graph import CudaRecorder, refuse_unrecordable
from bmrs_pyro.training.trainer import Batches, Trainer


def linear_decay(progress: float) -> float:
    """Learning-rate factor: 1 over the first half of training, then linearly to 0.

    Args:
        progress: share of the epochs already done, in [0, 1).
    """
    return min(1.0, 2.0 * (1.0 - progress))


def fit(
    model: SupervisedModel,
    guide: Callable[..., Any],
    loader: Batches,
    *,
    epochs: int = 30,
    fine_tune_epochs: int = 10,
    criterion: Criterion | None = None,
    prune_every: int = 1,
    min_keep: int = 1,
    limits: Limits | None = None,
    gains_only: bool = False,
    validation: Batches | None = None,
    optim: JointOptim | None = None,
    schedule: Callable[[float], float] = linear_decay,
    seed: int | None = 0,
    device: torch.device | str | None = None,
    channels_last: bool = False,
    compile: bool = False,
    cuda_graphs: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
    checkpoint: Checkpoint | None = None,
) -> History:
    """Fit weights and posteriors by SVI; remove structures as the evidence turns against them.

    After each ``prune_every``-th of the first ``epochs`` epochs the criterion is asked, and what it names is cut
    from network, guide and optimiser at once. Then follow ``fine_tune_epochs`` without pruning. At the end
    network and guide carry the weights of the best epoch by validation score among those with the final
    structures (the last one without validation data).

    Where torch.distributed runs several processes, each calls this with its part of every batch (``share`` of
    :class:`bmrs_pyro.data.Batches`), and they train the model that one process would with the whole batches. What
    else is random in the network, such as dropout, is drawn by each process for itself. The first process
    decides what is pruned, shows the progress bar and writes the checkpoint, which all have to see.

    Args:
        model: the model; its network shrinks in place.
        guide: an AutoTruncatedLogNormal, or a hand-written guide (then without criterion).
        loader: training batches ``(x, y)``; where it has ``set_epoch`` that is called with the epoch's number.
        epochs: epochs with pruning.
        fine_tune_epochs: epochs after them.
        criterion: which structures leave, such as ``bmrs_n()``; None prunes nothing.
        prune_every: epochs between pruning events.
        min_keep: structures every family keeps at least.
        limits: multiples, heeded at every pruning event, and budgets, met at the last one; None for none.
        gains_only: keep the weights as they are until fine-tuning, to prune a trained network quickly.
        validation: batches the best epoch is chosen on.
        optim: optimiser; by default fused Adam at 1e-3, variational parameters at ten times that.
        schedule: factor of the learning rates by share of epochs done.
        seed: seeds every epoch from (seed, epoch), so that a resumed run draws the same; None leaves Pyro's and
            torch's generators alone.
        device: where to train; by default where the network is.
        channels_last: keep images' weights in that memory order, which convolutions on GPUs are faster in.
        compile: have torch.compile make the draw and the KL from the first step on (for an AutoTruncatedLogNormal),
            and the network once no structure can leave any more, for it would be made anew after every removal.
        cuda_graphs: record steps as CUDA graphs, anew in every epoch, which spares the time between kernels where they
            are short; for a GPU, one process and an AutoTruncatedLogNormal.
        progress: show a progress bar.
        callbacks: called with every epoch's record, in every process.
        checkpoint: where the state is kept after every epoch and taken up from.

    Raises:
        TypeError: the model is no SupervisedModel, or a criterion meets a guide that cannot shrink.
        CompileError: torch.compile does not work here.
        NonFiniteLoss: the loss is NaN or infinite; names epoch, step and culprit.
        LostProcess: another process has died.
        ValueError: epoch counts or ``prune_every`` out of range, limits that nothing would heed, no batches, processes
            that are out of step, CUDA graphs where they cannot be recorded, or a checkpoint or several processes with a
            guide whose parameters live in Pyro's store alone.
    """
    limits = limits or Limits()
    _check(model, guide, criterion)
    refuse_schedule(epochs, fine_tune_epochs, prune_every, criterion, limits)
    if not isinstance(guide, PyroModule):
        _refuse_stored_parameters(guide, checkpoint)
    if device is not None:
        model.to(device)
        if isinstance(guide, nn.Module):
            guide.to(device)
    if channels_last:
        model.network.to(memory_format=torch.channels_last)
    if compile and isinstance(guide, AutoTruncatedLogNormal):
        compile_steps_(guide)
    if optim is None:
        optim = JointOptim(torch.optim.Adam, {"lr": 1e-3, "fused": True}, network=model.network)
    recorder = _recorder(model, guide, optim) if cuda_graphs else None
    run = Trainer(model, guide, optim, criterion, min_keep, limits, recorder)
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        run.restore(state)
    run.align()
    model.global_batch = optim.global_batch = run.batch
    registered, model.register_weights = model.register_weights, False
    # a store of its own: names in the global one may belong to another model. The parameters of a function, or of a
    # module without Pyro's attributes, live nowhere else, so that such a guide gets the global store.
    scope = pyro.get_param_store().scope() if isinstance(guide, PyroModule) else nullcontext()
    total = epochs + fine_tune_epochs
    try:
        with scope, EpochBar(total, loader, enabled=progress and rank() == 0) as bar:
            for epoch in range(len(run.history) + 1, total + 1):
                if seed is not None:
                    run.seed((seed * 1_000_003 + epoch) % 2**32)
                rate = schedule((epoch - 1) / total)
                optim.scale_rates(rate)
                pruning = criterion is not None and epoch <= epochs and epoch % prune_every == 0
                phase = "prune" if epoch <= epochs else "fine-tune"
                settled = criterion is None or epoch > epochs // prune_every * prune_every
                if compile and settled and model.compiled is None:
                    compile_network_(model, recorded=cuda_graphs)
                last = pruning and epoch + prune_every > epochs
                with frozen(model.network) if gains_only and phase == "prune" else nullcontext():
                    record = run.epoch(epoch, phase, rate, loader, validation, pruning, last, bar)
                for callback in callbacks:
                    callback(record)
                if checkpoint is not None and rank() == 0:
                    checkpoint.save(run.state())
    finally:
        model.register_weights = registered
        uncompile_(model, guide)
        model.global_batch = optim.global_batch = None
    run.finish()
    return run.history


def refuse_schedule(
    epochs: int, fine_tune_epochs: int, prune_every: int, criterion: Criterion | None, limits: Limits
) -> None:
    """Raise ValueError if there is nothing to train, or limits that no pruning event would heed."""
    if epochs < 0 or fine_tune_epochs < 0 or epochs + fine_tune_epochs < 1:
        raise ValueError(
            f"epochs={epochs} and fine_tune_epochs={fine_tune_epochs}; there must be at least one, and no number of "
            "them may be negative"
        )
    if prune_every < 1:
        raise ValueError(f"prune_every is {prune_every}; it counts epochs, at least 1")
    if limits != Limits() and (criterion is None or epochs < prune_every):
        why = (
            "there is no criterion" if criterion is None else f"prune_every={prune_every} of {epochs} epochs"
        )
        raise ValueError(
            f"{limits} would not be heeded, for nothing is pruned ({why}); prune, or drop the limits"
        )


def _recorder(model: SupervisedModel, guide: object, optim: JointOptim) -> CudaRecorder:
    device = next(model.network.parameters()).device
    refuse_unrecordable(device)
    if type(model) is not SupervisedModel or type(guide) is not AutoTruncatedLogNormal:
        raise ValueError(
            f"CUDA graphs are recorded with a SupervisedModel and an AutoTruncatedLogNormal, not with a "
            f"{type(model).__name__} and a {type(guide).__name__}: use those, or train without them"
        )
    optim.capturable_()
    return CudaRecorder(device)


def _refuse_stored_parameters(guide: object, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None or world_size() > 1:
        what = "a checkpoint" if checkpoint is not None else "training by several processes"
        raise ValueError(
            f"guide is a {type(guide).__name__}, whose parameters are in Pyro's store alone, where {what} does not "
            "reach them; use AutoTruncatedLogNormal or a PyroModule that has them as attributes"
        )


def _check(model: SupervisedModel, guide: Callable[..., Any], criterion: Criterion | None) -> None:
    if not isinstance(model, SupervisedModel):
        raise TypeError(
            f"model is a {type(model).__name__}; fit() trains a SupervisedModel. Hand-written model functions "
            "run in a loop of pyro.infer.SVI, as in models/lenet5.py"
        )
    if criterion is not None and not isinstance(guide, AutoTruncatedLogNormal):
        raise TypeError(
            f"guide is a {type(guide).__name__}, which cannot shrink in training; use AutoTruncatedLogNormal(model), "
            "or criterion=None and then select() and compact() after training"
        )
    if pyro.settings.get("module_local_params"):
        raise ValueError(
            "Pyro's setting module_local_params is on, under which SVI does not see plain network weights; "
            "turn it off with pyro.settings.set(module_local_params=False)"
        )
