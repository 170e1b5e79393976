"""A run from its beginning to its small network."""

from __future__ import annotations

__all__ = ["begin_run", "train_run"]

import platform
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pyro
import torch
from torch import nn

from bmrs_pyro import data
from bmrs_pyro.distributed import main_process_first, rank, world_size
from bmrs_pyro.inference import AutoTruncatedLogNormal, SmoothedLikelihood, SupervisedModel, posteriors
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.reduction import Decision, named_criterion
from bmrs_pyro.runs.config import RunConfig
from bmrs_pyro.runs.run_directory import RunDirectory
from bmrs_pyro.runs.source import NetworkSource
from bmrs_pyro.runs.splits import load_splits, run_data
from bmrs_pyro.runs.weight_files import load_weights_
from bmrs_pyro.training import (
    Hardware,
    Limits,
    Recipe,
    compile_steps_,
    default_optim,
    fit,
    reestimate_batch_norm_,
    refuse_labels,
)


def begin_run(
    path: Path,
    model: str,
    source: data.DataSource,
    recipe: Recipe,
    *,
    weights: Path | None = None,
    hardware: Hardware | None = None,
) -> RunDirectory:
    """Make a run's directory, after trying everything that can be wrong with network, data and options.

    Args:
        path: the directory.
        model: network source, see :class:`NetworkSource`.
        source: the data.
        recipe: how to train.
        weights: trained weights to start from; None for fresh ones.
        hardware: what the run will be trained on.

    Raises:
        ValueError: network, data, weights and recipe do not fit together, or the directory holds a run.
    """
    hardware = hardware or Hardware()
    network = NetworkSource(model)
    source = replace(source, size=source.size if source.size is not None else network.input_size())
    splits = load_splits(source, recipe.seed or 0)
    config = RunConfig(
        model=model,
        data=source,
        recipe=recipe,
        input_shape=splits.train.input_shape,
        num_classes=splits.train.num_classes,
        mean=splits.train.mean,
        std=splits.train.std,
        weights=str(weights) if weights else None,
        versions={
            "bmrs_pyro": version("bmrs-pyro"),
            "torch": str(torch.__version__),
            "pyro": pyro.__version__,
            "python": platform.python_version(),
        },
    )
    dense = network.build(config.input_shape, config.num_classes)
    if weights:
        load_weights_(dense, weights)
    program = _program(dense, config, len(splits.train))
    Limits.of(recipe).refuse_impossible(program.network)
    default_optim(recipe, program)
    refuse_labels(program, *next(iter(_training_batches(splits.train, recipe))), config.num_classes)
    if hardware.compile:
        compile_steps_(AutoTruncatedLogNormal(program.to(hardware.device or "cpu")))
    return RunDirectory.create(path, config, dense.state_dict() if weights else None)


def train_run(run: RunDirectory, *, hardware: Hardware | None = None, progress: bool = True) -> None:
    """Carry out a run's configuration, from its last checkpoint where it has one, and write what came out.

    Of several processes each takes its part, and the first one writes.

    Args:
        run: the run.
        hardware: what to train on.
        progress: show a progress bar.

    Raises:
        RunError: another process trains it, or a file of it cannot be used.
        WriteError: a file cannot be written.
    """
    with ExitStack() as held:
        main_process_first(lambda: held.enter_context(run.training()))
        _train(run, hardware or Hardware(), progress)


def _train(run: RunDirectory, hardware: Hardware, progress: bool) -> None:
    device = hardware.device or "cpu"
    config, recipe = run.config, run.config.recipe
    splits = run_data(run)
    model = _program(run.dense(), config, len(splits.train))
    guide = AutoTruncatedLogNormal(model)
    share = rank(), world_size()
    history = fit(
        model,
        guide,
        _training_batches(splits.train, recipe, device, share),
        recipe,
        hardware=hardware,
        validation=data.Batches(splits.validation, 1000, shuffle=False, device=device, share=share),
        progress=progress,
        callbacks=[run.append_metrics] if rank() == 0 else [],
        checkpoint=run.checkpoint,
    )
    if rank() > 0:
        return
    model.to("cpu")
    guide.to("cpu")
    run.save_network(model.network, posteriors(guide), history)
    small = history.network.to("cpu")
    reestimate_batch_norm_(small, data.Batches(splits.train, recipe.batch_size))
    decision = Decision.by(named_criterion(recipe.criterion), recipe.criterion, history.keep, history.scores)
    quality = evaluate(small, data.Batches(splits.validation, 1000, shuffle=False), config.num_classes)
    run.save_decision(decision, small, quality.accuracy)


def _program(net: nn.Module, config: RunConfig, num_data: int) -> SupervisedModel:
    recipe = config.recipe
    return SupervisedModel(
        NoisyNetwork(net, torch.zeros(2, *config.input_shape)),
        SmoothedLikelihood(recipe.label_smoothing),
        num_data,
        draws=recipe.draws,  # type: ignore[arg-type]
        kl_weight=recipe.kl_weight,
        mixed_precision=recipe.bfloat16,
    )


def _training_batches(
    train: data.Dataset, recipe: Recipe, device: str = "cpu", share: tuple[int, int] = (0, 1)
) -> data.Batches:
    return data.Batches(
        train,
        recipe.batch_size,
        seed=recipe.seed or 0,
        device=device,
        augmentation=data.Augmentation() if recipe.augment else None,
        share=share,
    )
