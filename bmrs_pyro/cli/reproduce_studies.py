"""``bmrs reproduce random-labels`` and other experiments that consist of a list of runs and one page."""

from __future__ import annotations

__all__ = ["both", "honesty", "index", "random_labels", "sbp", "tasks", "trained", "vgg"]

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from bmrs_pyro import experiments, training
from bmrs_pyro.cli.options import with_options_of
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.results import read_rows, write_page
from bmrs_pyro.cli.studying import Publication, Runs, RunsOnData, chosen

Images = Annotated[int, typer.Option(min=100, help="Number of training images; the first ones are used.")]
Epochs = Annotated[int, typer.Option(min=4, help="Epochs of each run.")]
Device = Annotated[str, typer.Option(help="Where networks are trained, cpu or cuda.")]
LeNets = Annotated[list[str] | None, typer.Option(help="lenet_fc or lenet5_caffe; both by default.")]


@with_options_of(call=RunsOnData(cache=Path("runs/sbp"), workers=2))
def sbp(
    network: LeNets = None,
    method: Annotated[str, typer.Option(help="snr (as published) or bmrs-n.")] = "snr",
    kl_weight: Annotated[
        list[str] | None,
        typer.Option(help="elbo, mean:FACTOR, cost:FACTOR or cost-macs:FACTOR; repeat for several."),
    ] = None,
    posterior_lr_factor: Annotated[
        float, typer.Option(help="The posteriors' learning rate, relative to 1e-3.")
    ] = 10.0,
    label_smoothing: Annotated[float, typer.Option(help="Probability spread evenly over all classes.")] = 0.0,
    warm_up: Annotated[
        int, typer.Option(min=0, help="Epochs of plain training without gains, before the others.")
    ] = 0,
    epochs: Annotated[int, typer.Option(help="Epochs with pruning.")] = 30,
    fine_tune_epochs: Annotated[
        int, typer.Option(help="Epochs without pruning, after those with pruning.")
    ] = 10,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Train on the validation data too and keep the last epoch; for a recipe chosen earlier.",
        ),
    ] = False,
    *,
    call: RunsOnData,
) -> None:
    """Repeat the MNIST experiments of Structured Bayesian Pruning.

    Runs are cached. Speeds are measured again by every call, after all runs: repeat the call on an idle machine.
    """
    sbp_runs, study, cache = experiments.sbp.lenets, experiments.sbp.lenets.STUDY, str(call.cache)
    configs = experiments.study.grid(
        call.seeds,
        network=chosen(network, sbp_runs.NETWORKS, "network"),
        method=chosen([method], ("snr", "bmrs-n"), "method"),
        kl_weight=list(dict.fromkeys(kl_weight or ["mean:0.3"])),
        posterior_lr_factor=[posterior_lr_factor],
        label_smoothing=[label_smoothing],
        warm_up=[warm_up],
        epochs=[epochs],
        fine_tune_epochs=[fine_tune_epochs],
        refit=[refit],
    )
    for config in configs:
        sbp_runs.recipe_of(config)
    run = functools.partial(sbp_runs.run, data_root=call.root, cache=cache)
    call.prepare(study)
    made = call.make(run, configs, intact=functools.partial(sbp_runs.has_networks, cache=cache))
    settings = [{key: row[key] for key in study.keys} for row in made]
    speeds = [sbp_runs.measured(config, cache=cache) for config in settings]
    call.publish(study, [{**row, **speed} for row, speed in zip(made, speeds, strict=True)])


@with_options_of(call=RunsOnData(cache=Path("runs/random-labels"), seeds=3))
def random_labels(
    network: LeNets = None,
    labels: Annotated[list[str] | None, typer.Option(help="random or true; both by default.")] = None,
    images: Images = 1000,
    epochs: Epochs = 60,
    *,
    call: RunsOnData,
) -> None:
    """Train on permuted labels: binary dropout memorises them, structured pruning removes everything."""
    study = experiments.sbp.random_labels
    configs = experiments.study.grid(
        call.seeds,
        network=chosen(network, experiments.sbp.lenets.NETWORKS, "network"),
        labels=chosen(labels, study.LABELS, "labels"),
        method=study.METHODS,
        images=[images],
        epochs=[epochs],
    )
    call.conduct(study.STUDY, study.run, configs, data_root=call.root)


@with_options_of(call=RunsOnData(cache=Path("runs/vgg")))
def vgg(
    width: Annotated[int, typer.Option(min=1, help="Channels of the first stage; 64 as published.")] = 16,
    method: Annotated[
        list[str] | None, typer.Option(help="dense, snr or bmrs-n; repeat for several, all by default.")
    ] = None,
    kl_weight: Annotated[
        str, typer.Option(help="elbo, mean:FACTOR, cost:FACTOR or cost-macs:FACTOR.")
    ] = "cost:0.1",
    images: Images = 45_000,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each run.")] = 30,
    device: Device = "cpu",
    *,
    call: RunsOnData,
) -> None:
    """Repeat SBP's experiment with the VGG-like network on CIFAR-10, with the given width and number of epochs."""
    study = experiments.sbp.vgg
    methods = chosen(method, study.METHODS, "method")
    configs = experiments.study.grid(
        call.seeds, width=[width], kl_weight=[kl_weight], images=[images], epochs=[epochs], method=methods
    )
    training.refuse_unusable(device)
    call.conduct(study.STUDY, study.run, configs, data_root=call.root, device=device)


@with_options_of(call=RunsOnData(cache=Path("runs/both")))
def both(
    network: Annotated[
        list[str] | None, typer.Option(help="lenet5_caffe or mlp_mixer-64x2; both by default.")
    ] = None,
    dataset: Annotated[str, typer.Option("--data", help="mnist or fashion_mnist.")] = "fashion_mnist",
    images: Images = 54_000,
    epochs: Epochs = 12,
    *,
    call: RunsOnData,
) -> None:
    """Compare pruning structures and then the remaining weights with pruning only one of them."""
    study = experiments.weights.both
    configs = experiments.study.grid(
        call.seeds,
        network=chosen(network, study.NETWORKS, "network"),
        data=chosen([dataset], ("mnist", "fashion_mnist"), "data set"),
        images=[images],
        epochs=[epochs],
        method=study.METHODS,
    )
    call.conduct(study.STUDY, study.run, configs, data_root=call.root)


@with_options_of(call=Runs(cache=Path("runs/tasks")))
def tasks(
    task: Annotated[list[str] | None, typer.Option(help="Task; repeat for several, all by default.")] = None,
    epochs: Epochs = 36,
    dense_epochs: Annotated[int, typer.Option(min=0, help="Epochs without gains before the path.")] = 12,
    *,
    call: Runs,
) -> None:
    """Prune networks for tables, a time series, text and segmentation; installed packages bring the data."""
    study = experiments.tasks.runs
    names = chosen(task, study.TASKS, "task")
    configs = experiments.study.grid(call.seeds, task=names, epochs=[epochs], dense_epochs=[dense_epochs])
    call.conduct(study.STUDY, study.run, configs)


@with_options_of(call=RunsOnData(cache=Path("runs/trained")))
def trained(
    network: Annotated[
        list[str] | None, typer.Option(help="vgg, vgg-wide, resnet20 or vit; repeat for several.")
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(help="dense, bmrs-path, torch-pruning-taylor, ...; repeat for several."),
    ] = None,
    budget: Annotated[
        list[int] | None,
        typer.Option(help="Percent of the multiply-accumulates to keep; repeat for several."),
    ] = None,
    epochs: Annotated[
        list[int] | None,
        typer.Option(help="Epochs of training during and after pruning; repeat for several."),
    ] = None,
    device: Device = "cpu",
    *,
    call: RunsOnData,
) -> None:
    """Prune trained networks to budgets, and compare with torch-pruning (extra: compare)."""
    study = experiments.trained.runs
    configs = study.grid(
        chosen(network or ["vgg"], study.NETWORKS, "network"),
        chosen(contender, study.CONTENDERS, "contender"),
        budget or study.BUDGETS,
        epochs or study.EPOCHS,
        call.seeds,
    )
    training.refuse_unusable(device)
    given = {"data_root": call.root, "cache": str(call.cache), "device": device}
    call.conduct(experiments.trained.page.STUDY, study.run, configs, **given)


@with_options_of(call=Publication)
def honesty(
    networks: Annotated[int, typer.Option(min=1, help="Random networks of each kind.")] = 8,
    code: Annotated[str, typer.Option(help="Name of the measured version of the code in the table.")] = "now",
    *,
    call: Publication,
) -> None:
    """Find structures in random networks that treat channels by position, and count those wrongly called removable."""
    call.prepare(experiments.honesty.page.STUDY)
    console, rows = Console(stderr=True, quiet=call.quiet), []
    for kind in experiments.honesty.networks.KINDS if not call.rebuild else ():
        found = [experiments.honesty.networks.measured(kind, number) for number in range(networks)]
        sums = {key: sum(one[key] for one in found) for key in ("offered", "wrong")}
        rows.append({"code": code, "kind": kind, "networks": networks, **sums})
        console.print(f"{kind}: {sums['offered']} offers, {sums['wrong']} wrong")
    call.publish(experiments.honesty.page.STUDY, rows)


def index(
    results: Annotated[
        Path, typer.Option(help="Folder of the result files, into which index.md is written.")
    ],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one table with every claim of the sources and our numbers, from the result files."""
    if not results.is_dir():
        raise ValueError(
            f"--results is {results}, which is not a folder; give the --out folder of the experiments"
        )
    names = experiments.claims.FILES
    page = experiments.claims.page({name: read_rows(results / f"{name}.json") for name in names})
    output = Output(json, quiet)
    output.show(Markdown(page))
    output.result({"page": str(results / "index.md")})
    write_page(results / "index.md", page)
