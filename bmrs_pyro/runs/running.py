"""Start a run, and train it until its small network is written."""

from __future__ import annotations

__all__ = ["begin_run", "train_run"]

import platform
import warnings
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import pyro
import torch

from bmrs_pyro import data
from bmrs_pyro.distributed import main_process_first, rank
from bmrs_pyro.inference import AutoTruncatedLogNormal, posteriors
from bmrs_pyro.inference.inputs import pairs
from bmrs_pyro.inference.likelihoods import OF_CLASSES
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.network.generators import generators_kept
from bmrs_pyro.path import Target, limits_of
from bmrs_pyro.path.pace import refuse_short, refuse_standing
from bmrs_pyro.reduction import Decision, named_criterion
from bmrs_pyro.runs.along_path import train_path
from bmrs_pyro.runs.config import RunConfig
from bmrs_pyro.runs.likelihoods import scored_by
from bmrs_pyro.runs.preparing import Prepared, batches_of, program_of
from bmrs_pyro.runs.reducing import refuse_unreducible
from bmrs_pyro.runs.run_directory import RunDirectory
from bmrs_pyro.runs.source import NetworkSource
from bmrs_pyro.runs.splits import digest_of, load_splits, outputs_for, serving
from bmrs_pyro.runs.weight_files import load_weights_
from bmrs_pyro.training import (
    Cycle,
    Hardware,
    Limits,
    Recipe,
    compile_steps_,
    default_optim,
    fit,
    reestimate_batch_norm_,
    refuse_labels,
)
from bmrs_pyro.training.labels import refuse_few
from bmrs_pyro.training.validation import validate


def begin_run(
    path: Path,
    model: str,
    source: data.DataSource,
    recipe: Recipe,
    *,
    target: Target | None = None,
    dense_epochs: int = 12,
    weights: Path | None = None,
    cycle: Cycle | None = None,
    hardware: Hardware | None = None,
) -> RunDirectory:
    """Make a run's directory, after checking that network, data and options fit together.

    Args:
        path: the directory.
        model: network source, see :class:`NetworkSource`.
        source: the data.
        recipe: how to train.
        target: what the network may cost, for a run along the path; None makes a run at one KL weight.
        dense_epochs: epochs without gains before the path.
        weights: file of trained weights to start from; None for random ones.
        cycle: how the weights of a trained network are trained while it is reduced to the target; None for other runs.
        hardware: the hardware that the run will be trained on.

    Raises:
        ValueError: network, data, weights and recipe do not fit together, or the directory holds a run.
    """
    hardware = hardware or Hardware()
    if target is not None and cycle is not None:
        refuse_unreducible(recipe, hardware)
        recipe = replace(recipe, kl_weight="elbo")  # evidence in nats of the likelihood
    elif target is not None:
        refuse_short(recipe.epochs, dense_epochs)
        refuse_standing(recipe.lr)
        recipe = replace(recipe, kl_weight=target.kl_weight)
    network = NetworkSource(model)
    source = replace(source, size=source.size if source.size is not None else network.input_size())
    splits = load_splits(source, recipe)
    with generators_kept():
        for name, part in (("validation", splits.validation), ("test", splits.test)):
            if isinstance(part, data.Items):
                part.refuse_unfit(name, classes=recipe.likelihood.partition(":")[0] in OF_CLASSES)
    target_mean, target_std = _target_moments(splits.train, recipe)
    config = RunConfig(
        model=model,
        data=source,
        recipe=recipe,
        input_shape=splits.train.input_shape,
        num_classes=outputs_for(splits.train, recipe),
        mean=splits.train.mean,
        std=splits.train.std,
        target_mean=target_mean,
        target_std=target_std,
        columns=splits.train.columns,
        data_digest=digest_of(splits, source),
        target=target,
        dense_epochs=0 if target is None or cycle is not None else dense_epochs,
        cycle=cycle,
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
    given = dense.state_dict() if weights else None  # before attention gets other layers
    example = splits.train.example
    plain = isinstance(example, torch.Tensor) and example.is_floating_point()
    if target is not None:
        refuse_few(serving(splits.validation, recipe.batch_size, shuffle=False))
    program = program_of(dense, config, len(splits.train), None if plain else example)
    noisy = program.network
    limits = Limits.of(recipe) if target is None else limits_of(target, noisy, recipe.round_to)
    limits.refuse_impossible(noisy)
    default_optim(recipe, program)
    classes = config.num_classes if recipe.likelihood.partition(":")[0] in OF_CLASSES else None
    if classes == 1:
        raise data.DataError(f"{source.data}: all labels are of one class, so there is nothing to predict")
    refuse_labels(program, *next(pairs(batches_of(splits.train, recipe))), classes)
    for name in ("validation", "test"):
        with generators_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said of the training part
            first = next(pairs(serving(getattr(splits, name), recipe.batch_size, shuffle=False)))
            try:
                refuse_labels(program, *first, classes)
            except ValueError as error:
                raise data.DataError(f"{source.data}, {name} part: {error}") from None
    if target is not None and target.score is not None:
        held_out = serving(splits.validation, recipe.batch_size, shuffle=False)
        target.score_of(validate(program, {}, islice(held_out, 1)))
    if hardware.compile:
        compile_steps_(AutoTruncatedLogNormal(program.to(hardware.device or "cpu")))
    run = RunDirectory.create(path, config, given, None if plain else example)
    return replace(run, structures=program.network.structures)


def train_run(run: RunDirectory, *, hardware: Hardware | None = None, progress: bool = True) -> None:
    """Train a run as configured, from its last checkpoint if it has one, and write the results.

    Each of several processes trains on its part of the batches, and the first one writes.

    Args:
        run: the run.
        hardware: the hardware to train on.
        progress: show a progress bar.

    Raises:
        RunError: another process is training the run, or one of its files cannot be used.
        WriteError: a file cannot be written.
    """
    with ExitStack() as held:
        main_process_first(lambda: held.enter_context(run.training()))
        train = _train_at_one_weight if run.config.target is None else train_path
        train(run, hardware or Hardware(), progress)


def _train_at_one_weight(run: RunDirectory, hardware: Hardware, progress: bool) -> None:
    config, recipe = run.config, run.config.recipe
    prepared = Prepared.of(run, hardware.device or "cpu")
    model, guide, train = prepared.model, prepared.guide, prepared.splits.train
    history = fit(
        model,
        guide,
        prepared.loader,
        recipe,
        hardware=hardware,
        validation=prepared.validation,
        progress=progress,
        callbacks=[run.append_metrics] if rank() == 0 else [],
        checkpoint=run.checkpoint,
    )
    if rank() > 0:
        return
    model.to("cpu")
    guide.to("cpu")
    run.save_network(model.network, posteriors(guide), history, model.likelihood)
    model.to(hardware.device or "cpu")  # the small network is evaluated where it was trained
    small = history.network
    reestimate_batch_norm_(small, serving(train, recipe.batch_size))
    decision = Decision.by(named_criterion(recipe.criterion), recipe.criterion, history.keep, history.scores)
    held_out = serving(prepared.splits.validation, 1000, shuffle=False)
    quality = evaluate(small, held_out, likelihood=scored_by(config, model.likelihood))
    scores = (getattr(quality, name, None) for name in ("accuracy", "rmse"))
    run.save_decision(decision, small.to("cpu"), *scores)


def _target_moments(
    train: data.Dataset | data.Items, recipe: Recipe
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the values, for a likelihood with a location; else (0, 1)."""
    if not recipe.likelihood.startswith(("normal", "student-t")):
        return (0.0,), (1.0,)
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for y in train.labels() if isinstance(train, data.Items) else [train.labels]:
        values = (y.movedim(1, -1) if y.dim() > 3 else y).double()
        several = y.dim() > 1 and values.shape[-1] == train.num_classes
        values = values.reshape(-1, train.num_classes if several else 1)
        step = values.mean(0) - mean  # moments of both parts, without a difference of large numbers
        both = count + len(values)
        mean = mean + step * len(values) / both
        squares = squares + (values - values.mean(0)).square().sum(0) + step**2 * count * len(values) / both
        count = both
    std = (squares / count).sqrt()
    return tuple(mean.tolist()), tuple(std.where(std > 0, 1.0).tolist())
