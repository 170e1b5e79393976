"""``bmrs fit``: train and prune a network, into a run directory."""

from __future__ import annotations

__all__ = ["fit", "train"]

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pyro
import torch
import typer
from torch import nn

import bmrs_pyro
from bmrs_pyro import data
from bmrs_pyro.cli.criteria import named_criterion
from bmrs_pyro.cli.devices import refuse_unusable
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.report import show_report
from bmrs_pyro.distributed import init_distributed, main_process_first, rank, world_size
from bmrs_pyro.files import WriteError
from bmrs_pyro.inference import AutoTruncatedLogNormal, SmoothedLikelihood, SupervisedModel, posteriors
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.network import NoisyNetwork, compact
from bmrs_pyro.reduction import Decision
from bmrs_pyro.runs import NetworkSource, RunConfig, RunDirectory, RunError, load_weights_, run_data
from bmrs_pyro.training import (
    JointOptim,
    Limits,
    compile_steps_,
    reestimate_batch_norm_,
    refuse_schedule,
    refuse_unrecordable,
)
from bmrs_pyro.training import fit as fit_model


def fit(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="FILE.py, module:callable, or torchvision:NAME.")],
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
    dataset: Annotated[
        str,
        typer.Option("--data", help="digits, mnist, fashion_mnist, cifar10, FILE.npz or an image folder."),
    ] = "digits",
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the data sets.")] = None,
    download: Annotated[bool, typer.Option(help="Download a missing data set.")] = False,
    size: Annotated[int | None, typer.Option(help="Resize images to this height and width.")] = None,
    criterion: Annotated[
        str, typer.Option(help="Continuous pruning by bmrs-n, bmrs-u-BITS, snr, or none.")
    ] = "bmrs-n",
    kl_weight: Annotated[
        str,
        typer.Option(help="elbo, mean:FACTOR, cost:FACTOR or cost-macs:FACTOR; a larger one prunes more."),
    ] = "mean:0.3",
    epochs: Annotated[int, typer.Option(help="Epochs with pruning.")] = 30,
    fine_tune_epochs: Annotated[int, typer.Option(help="Epochs after them, without.")] = 10,
    prune_every: Annotated[int, typer.Option(help="Epochs between pruning events.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = 64,
    lr: Annotated[float, typer.Option(help="Adam's learning rate for the weights.")] = 1e-3,
    posterior_lr_factor: Annotated[float, typer.Option(help="The posteriors' rate relative to it.")] = 10.0,
    draws: Annotated[
        str, typer.Option(help="One draw of the gains per 'example' or per 'batch'.")
    ] = "example",
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from trained weights: FILE.safetensors, or FILE.pt of a state dict."),
    ] = None,
    gains_only: Annotated[
        bool,
        typer.Option("--gains-only", help="Leave the weights as they are until the epochs without pruning."),
    ] = False,
    label_smoothing: Annotated[float, typer.Option(help="Probability that a label is not believed.")] = 0.0,
    augment: Annotated[
        bool, typer.Option("--augment", help="Shift training images by up to 4 pixels, mirror half of them.")
    ] = False,
    bfloat16: Annotated[
        bool,
        typer.Option("--bfloat16", help="Train in mixed precision, where the processor is faster at it."),
    ] = False,
    round_to: Annotated[int, typer.Option(help="Numbers of channels kept are multiples of this.")] = 1,
    max_macs: Annotated[
        int | None, typer.Option(help="Most multiply-accumulates for one example of the small network.")
    ] = None,
    max_params: Annotated[int | None, typer.Option(help="Most parameters of the small network.")] = None,
    validation: Annotated[float, typer.Option(help="Share of the training data to validate on.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of the split, the weights and every epoch.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default cpu.")] = None,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", help="Run steps by torch.compile, where that is faster; needs a C++ compiler."
        ),
    ] = False,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Record steps as CUDA graphs, anew in every epoch.")
    ] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Memory order that convolutions on GPUs are faster in.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run, with its own options, where there is one.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit a network with random gains, prune it as it learns, and keep the small network in a run directory."""
    run = RunDirectory(out)

    def prepare() -> None:
        if resume and run.exists():
            _refuse_another(run, context)
        else:
            source = NetworkSource(model)
            side = size if size is not None else source.input_size()
            splits = data.load(
                dataset, data_root=data_root, download=download, size=side, validation=validation, seed=seed
            )
            config = RunConfig(
                model=model,
                data=dataset,
                data_root=str(data_root) if data_root else None,
                input_shape=splits.train.input_shape,
                num_classes=splits.train.num_classes,
                mean=splits.train.mean,
                std=splits.train.std,
                size=side,
                criterion=criterion,
                epochs=epochs,
                fine_tune_epochs=fine_tune_epochs,
                prune_every=prune_every,
                batch_size=batch_size,
                lr=lr,
                posterior_lr_factor=posterior_lr_factor,
                kl_weight=kl_weight,
                draws=draws,
                weights=str(weights) if weights else None,
                gains_only=gains_only,
                label_smoothing=label_smoothing,
                augment=augment,
                bfloat16=bfloat16,
                round_to=round_to,
                max_macs=max_macs,
                max_params=max_params,
                validation=validation,
                seed=seed,
                versions={
                    "bmrs_pyro": bmrs_pyro.__version__,
                    "torch": str(torch.__version__),
                    "pyro": pyro.__version__,
                    "python": platform.python_version(),
                },
            )
            # whatever is wrong with network or options shows before the directory is made
            dense = source.build(config.input_shape, config.num_classes)
            if weights:
                load_weights_(dense, weights)
            program = _program(dense, config, len(splits.train))
            limits = _limits(config)
            refuse_schedule(epochs, fine_tune_epochs, prune_every, named_criterion(criterion), limits)
            limits.refuse_impossible(program.network)
            _optim(config, program)
            next(iter(_training_batches(splits.train, config)))
            if compile:
                compile_steps_(AutoTruncatedLogNormal(program.to(own_device or "cpu")))
            RunDirectory.create(out, config, dense.state_dict() if weights else None)

    with init_distributed(device) as own_device:
        refuse_unusable(own_device or "cpu")
        if cuda_graphs:
            refuse_unrecordable(torch.device(own_device or "cpu"))
        main_process_first(prepare)
        first = rank() == 0
        output = Output(json and first, quiet or not first)
        try:
            train(
                run,
                device=own_device,
                compile=compile,
                cuda_graphs=cuda_graphs,
                channels_last=channels_last,
                progress=output.progress,
            )
        except WriteError as error:
            raise RunError(
                f"{error}; what was saved before is whole: once that is mended, continue with --resume"
            ) from None
        if first:
            show_report(run, output)


def train(
    run: RunDirectory,
    *,
    device: str | None = None,
    compile: bool = False,
    cuda_graphs: bool = False,
    channels_last: bool = False,
    progress: bool = True,
) -> None:
    """Carry out a run's configuration, from its last checkpoint where it has one, and write what came out.

    Of several processes each takes its part, and the first one writes.
    """
    config = run.config
    splits = run_data(run)
    model = _program(run.dense(), config, len(splits.train))
    guide = AutoTruncatedLogNormal(model)
    optim = _optim(config, model)
    criterion = named_criterion(config.criterion)
    share = rank(), world_size()
    batches = _training_batches(splits.train, config, device or "cpu", share)
    history = fit_model(
        model,
        guide,
        batches,
        epochs=config.epochs,
        fine_tune_epochs=config.fine_tune_epochs,
        criterion=criterion,
        prune_every=config.prune_every,
        limits=_limits(config),
        gains_only=config.gains_only,
        validation=data.Batches(splits.validation, 1000, device=device or "cpu", share=share),
        optim=optim,
        seed=config.seed,
        device=device,
        channels_last=channels_last,
        compile=compile,
        cuda_graphs=cuda_graphs,
        progress=progress,
        callbacks=[run.append_metrics] if rank() == 0 else [],
        checkpoint=run.checkpoint,
    )
    if rank() > 0:
        return
    model.to("cpu")
    guide.to("cpu")
    found = posteriors(guide)
    run.save_network(model.network, found, history)
    small = compact(model.network, {}, {name: q.mean for name, q in found.items()})
    reestimate_batch_norm_(small, data.Batches(splits.train, config.batch_size, shuffle=True))
    decision = Decision.by(criterion, config.criterion, history.keep, history.scores)
    quality = evaluate(small, data.Batches(splits.validation, 1000), config.num_classes)
    run.save_decision(decision, small, quality.accuracy)


def _program(net: nn.Module, config: RunConfig, num_data: int) -> SupervisedModel:
    network = NoisyNetwork(net, torch.zeros(2, *config.input_shape))
    return SupervisedModel(
        network,
        SmoothedLikelihood(config.label_smoothing),
        num_data,
        draws=config.draws,  # type: ignore[arg-type]
        kl_weight=config.kl_weight,
        mixed_precision=config.bfloat16,
    )


def _training_batches(
    train: data.Dataset, config: RunConfig, device: str = "cpu", share: tuple[int, int] = (0, 1)
) -> data.Batches:
    return data.Batches(
        train,
        config.batch_size,
        shuffle=True,
        seed=config.seed,
        device=device,
        augmentation=data.Augmentation() if config.augment else None,
        share=share,
    )


def _optim(config: RunConfig, model: SupervisedModel) -> JointOptim:
    return JointOptim(
        torch.optim.Adam,
        {"lr": config.lr, "fused": True},
        network=model.network,
        posterior_lr_factor=config.posterior_lr_factor,
    )


def _limits(config: RunConfig) -> Limits:
    return Limits(config.round_to, config.max_macs, config.max_params)


def _refuse_another(run: RunDirectory, context: typer.Context) -> None:
    """Refuse a network or options that were given and are not the run's, which goes on as it was begun."""
    config = asdict(run.config)
    config["dataset"] = config.pop("data")
    others = []
    for option in context.command.params:
        name = str(option.name)
        source = context.get_parameter_source(name)
        if name not in config or source is None or source.name != "COMMANDLINE":
            continue
        given = context.params[name]
        if (str(given) if isinstance(given, Path) else given) != config[name]:
            others.append(f"{option.opts[0]} is {given}, not {config[name]}")
    if others:
        raise RunError(
            f"{run.path} was begun otherwise: {'; '.join(others)}. Resume it with its own, or begin another run"
        )
