"""Training: epochs of SVI with continuous pruning, then fine-tuning."""

from __future__ import annotations

__all__ = ["default_optim", "fit"]

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from operator import length_hint
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import nn

from bmrs_pyro.distributed import rank, world_size
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.inputs import refuse_untrainable
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.reduction import Criterion, named_criterion, refuse_no_criterion
from bmrs_pyro.training.checkpoint import StateStore, refuse_no_store
from bmrs_pyro.training.compilation import compile_network_, compile_steps_, uncompile_
from bmrs_pyro.training.devices import refuse_unusable
from bmrs_pyro.training.freezing import frozen
from bmrs_pyro.training.history import Epoch, History
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.loop import Batches
from bmrs_pyro.training.optimiser import JointOptim
from bmrs_pyro.training.options import refuse_no_callbacks
from bmrs_pyro.training.progress import EpochBar
from bmrs_pyro.training.recipe import (
    OF_MODEL_AND_LOADER,
    Hardware,
    Recipe,
    with_options,
)
from bmrs_pyro.training.schedule import plan_of
from bmrs_pyro.training.step_graph import CudaRecorder, refuse_unrecordable
from bmrs_pyro.training.trainer import Trainer
from bmrs_pyro.training.travel import warn_of_nothing_left, warn_of_slow_posteriors


def fit(
    model: SupervisedModel,
    guide: Callable[..., Any],
    loader: Batches,
    recipe: Recipe | None = None,
    *,
    hardware: Hardware | None = None,
    validation: Batches | None = None,
    optim: JointOptim | None = None,
    progress: bool | str = True,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
    checkpoint: StateStore | None = None,
    **options: Any,
) -> History:
    """Fit weights and posteriors by SVI, and remove structures when the evidence favours it.

    In the first ``epochs`` epochs, the criterion is applied after every ``prune_every`` epochs. The structures it
    selects are removed from network, guide and optimiser at once. Then ``fine_tune_epochs`` epochs without pruning
    follow. At the end network, guide and likelihood have the parameters of the epoch with the best validation score
    among those with the final structures; without validation data, of the last epoch. ``network`` of the returned
    history is the small network with these parameters. Parameters that a likelihood makes with ``pyro.param`` are in
    Pyro's store. The random generators of Python, NumPy and torch are restored, unless the recipe's seed is None.

    If torch.distributed runs several processes, each calls this function with its part of every batch (``share`` of
    :class:`bmrs_pyro.data.Batches`). The result is the model that one process would train with whole batches, except
    that each process draws other random numbers, such as dropout, by itself. The first process decides what is
    pruned, shows the progress bar and writes the checkpoint, which all processes must be able to read.

    Args:
        model: the model; its network shrinks in place.
        guide: an AutoTruncatedLogNormal, or a hand-written guide (then with ``criterion=None``).
        loader: training batches ``(x, y)``, where x may be a tuple or a dict of several inputs, or dicts of the inputs
            and ``"labels"``. If the loader or its sampler has ``set_epoch``, it is called with the epoch's number.
        recipe: how to train; batch size, data augmentation, likelihood, draws, precision and KL weight are not used,
            because loader and model have their own.
        hardware: the hardware to train on.
        validation: batches on which the best epoch is chosen.
        optim: optimiser; by default fused Adam at the recipe's rates.
        progress: show a progress bar; a text is its title.
        callbacks: called with every epoch's record, in every process. If one raises :class:`StopTraining`, the epoch is
            the last one.
        checkpoint: saves the state after every epoch; an existing state is continued, with a model and guide made as at
            the start, and the same layers and optimiser. Other options may differ: those of this call count.
        **options: fields of :class:`Recipe` and :class:`Hardware` to change, such as ``epochs=30``.

    Raises:
        TypeError: the model is not a SupervisedModel, the guide cannot shrink but there is a criterion, or an option
            is unknown.
        CompileError: torch.compile does not work here.
        NonFiniteLoss: the loss is NaN or infinite; the message names epoch, step and cause.
        LostProcess: another process has died.
        ValueError: an option is out of range, or belongs to model or loader; there are no batches, labels are outside
            the support of the likelihood, processes are out of step, CUDA graphs cannot be recorded, or the guide's
            parameters are only in Pyro's store but there is a checkpoint or several processes.
    """
    _refuse_of_model_and_loader(options)
    recipe, hardware = with_options(recipe or Recipe(), hardware or Hardware(), options)
    criterion = named_criterion(recipe.criterion) if isinstance(recipe.criterion, str) else recipe.criterion
    _check(model, guide, criterion)
    refuse_no_callbacks(callbacks)
    if not isinstance(progress, bool | str):
        raise TypeError(f"progress is {progress!r}; give True, False or a title")
    refuse_no_store(checkpoint)
    if not isinstance(guide, PyroModule):
        _refuse_stored_parameters(guide, checkpoint)
    _move(model, guide, hardware)
    if not isinstance(optim, JointOptim | None):
        raise TypeError(
            f"optim is a {type(optim).__name__}; give a JointOptim, such as JointOptim(torch.optim.Adam, "
            "{'lr': 1e-3})"
        )
    optim = optim or default_optim(recipe, model)
    recorder = _recorder(model, guide, optim) if hardware.cuda_graphs else None
    run = Trainer(model, guide, optim, criterion, recipe.min_keep, Limits.of(recipe), recorder)
    run.start(checkpoint)
    model.global_batch = optim.global_batch = run.batch
    if criterion is not None and rank() == 0:
        warn_of_slow_posteriors(model.prior, length_hint(loader), _posterior_rates(recipe, optim))
    registered, model.register_weights = model.register_weights, False

    def epoch(number: int, bar: EpochBar) -> Epoch:
        plan = plan_of(recipe, number)
        optim.scale_rates(plan.rate)
        if hardware.compile and plan.settled and model.compiled is None:
            compile_network_(model, recorded=hardware.cuda_graphs)
        with frozen(model.network) if plan.frozen else nullcontext():
            return run.epoch(plan, loader, validation, bar)

    try:
        run.run(
            epoch,
            recipe.epochs + recipe.fine_tune_epochs,
            loader,
            seed=recipe.seed,
            progress=progress,
            callbacks=callbacks,
            checkpoint=checkpoint,
            # the parameters of a function, or of a module without Pyro's attributes, are only in the caller's store
            store=None if isinstance(guide, PyroModule) else nullcontext(),
        )
    finally:
        model.register_weights = registered
        uncompile_(model, guide)
        model.global_batch = optim.global_batch = None
    if criterion is not None and recipe.epochs and not run.history.keep.removed and rank() == 0:
        warn_of_nothing_left(recipe.epochs, max(family.size for family in model.structures), recipe.min_keep)
    return run.history


def _posterior_rates(recipe: Recipe, optim: JointOptim) -> list[float]:
    """Return the posteriors' learning rate in every epoch that may end with a removal."""
    rate = optim.lr * (optim.posterior_lr_factor if optim.network is not None else 1.0)
    return [rate * plan_of(recipe, epoch).rate for epoch in range(1, recipe.epochs + 1)]


def default_optim(recipe: Recipe, model: SupervisedModel) -> JointOptim:
    """Return Adam with a recipe's learning rates, fused unless weights are complex."""
    fused = not any(weight.is_complex() for weight in model.network.parameters())
    return JointOptim(
        torch.optim.Adam,
        {"lr": recipe.lr, "fused": fused},
        network=model.network,
        posterior_lr_factor=recipe.posterior_lr_factor,
    )


def _move(model: SupervisedModel, guide: object, hardware: Hardware) -> None:
    """Move model and guide to the device, with the memory format and compilation of ``hardware``."""
    if hardware.device is not None:
        refuse_unusable(hardware.device)
        model.to(hardware.device)
        if isinstance(guide, nn.Module):
            guide.to(hardware.device)
    if hardware.channels_last:
        model.network.to(memory_format=torch.channels_last)
    if hardware.compile and isinstance(guide, AutoTruncatedLogNormal):
        compile_steps_(guide)


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


def _refuse_stored_parameters(guide: object, checkpoint: StateStore | None) -> None:
    if checkpoint is not None or world_size() > 1:
        what = "a checkpoint" if checkpoint is not None else "training by several processes"
        raise ValueError(
            f"guide is a {type(guide).__name__}, whose parameters are in Pyro's store alone, which {what} does not "
            "include; use AutoTruncatedLogNormal or a PyroModule that has them as attributes"
        )


def _refuse_of_model_and_loader(options: Collection[str]) -> None:
    if useless := sorted(OF_MODEL_AND_LOADER & set(options)):
        have = "have" if useless[1:] else "has"
        raise ValueError(
            f"{', '.join(useless)} {have} no effect on fit(), because model and loader are made already: give "
            "kl_weight, likelihood, draws and mixed_precision to SupervisedModel, and batches as you want them"
        )


def _check(model: SupervisedModel, guide: Callable[..., Any], criterion: Criterion | None) -> None:
    if not isinstance(model, SupervisedModel):
        raise TypeError(
            f"model is a {type(model).__name__}; fit() trains a SupervisedModel. Hand-written model functions "
            "run in a loop of pyro.infer.SVI, as in models/lenet5.py"
        )
    if isinstance(guide, AutoTruncatedLogNormal) and guide.model is not model:
        raise ValueError(
            "the guide is another model's, with the prior, KL weights and structures of that one; make "
            "AutoTruncatedLogNormal(model). To go on from its posteriors, set loc and scale of the new guide to its own"
        )
    refuse_untrainable(model)
    if norms := model.network.norms:
        raise ValueError(
            f"layer {norms[0]!r} normalises over structures of the network, which only the reduction of a trained "
            "network can remove; make NoisyNetwork(net, x) without trained=True"
        )
    if criterion is not None:
        refuse_no_criterion(criterion)
    if criterion is not None and not isinstance(guide, AutoTruncatedLogNormal):
        raise TypeError(
            f"guide is a {type(guide).__name__}, which cannot shrink in training; use AutoTruncatedLogNormal(model), "
            "or train with criterion=None and call select() and compact() afterwards"
        )
    if pyro.settings.get("module_local_params"):
        raise ValueError(
            "Pyro's setting module_local_params is on, and SVI then does not train plain network weights; "
            "turn it off with pyro.settings.set(module_local_params=False)"
        )
