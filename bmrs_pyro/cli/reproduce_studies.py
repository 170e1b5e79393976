"""``bmrs reproduce random-labels`` and other experiments that consist of a list of runs and one table."""

from __future__ import annotations

__all__ = ["both", "index", "precision", "random_labels", "tasks", "vgg"]

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown

from bmrs_pyro import experiments, runs
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_options import Seeds, Workers, chosen
from bmrs_pyro.cli.results import added, prepare, read_rows, write_page

DataRoot = Annotated[Path, typer.Option(help="Folder that holds the data sets.")]
Cache = Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the runs (.json) and their page (.md).")]
Images = Annotated[int, typer.Option(min=100, help="Number of training images; the first ones are used.")]
Epochs = Annotated[int, typer.Option(min=4, help="Epochs of each run.")]


def random_labels(
    data_root: DataRoot,
    network: Annotated[
        list[str] | None, typer.Option(help="lenet_fc or lenet5_caffe; both by default.")
    ] = None,
    labels: Annotated[list[str] | None, typer.Option(help="random or true; both by default.")] = None,
    images: Images = 1000,
    epochs: Epochs = 60,
    seeds: Seeds = 3,
    cache: Cache = Path("runs/random-labels"),
    out: Out = None,
    workers: Workers = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train on permuted labels: binary dropout memorises them, structured pruning removes everything."""
    study = experiments.random_labels
    configs = [
        {"network": net, "labels": kind, "method": method, "images": images, "epochs": epochs, "seed": seed}
        for seed, net, kind, method in itertools.product(
            range(seeds),
            chosen(network or experiments.sbp.NETWORKS, experiments.sbp.NETWORKS, "network"),
            chosen(labels or study.LABELS, study.LABELS, "labels"),
            study.METHODS,
        )
    ]
    _make(study, "random-labels", configs, data_root, cache, out, workers, Output(json, quiet))


def vgg(
    data_root: DataRoot,
    width: Annotated[int, typer.Option(min=1, help="Channels of the first stage; 64 as published.")] = 16,
    method: Annotated[
        list[str] | None, typer.Option(help="dense, snr or bmrs-n; repeat for several, all by default.")
    ] = None,
    kl_weight: Annotated[
        str, typer.Option(help="elbo, mean:FACTOR, cost:FACTOR or cost-macs:FACTOR.")
    ] = "cost:0.1",
    images: Images = 45_000,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each run.")] = 30,
    seeds: Seeds = 1,
    cache: Cache = Path("runs/vgg"),
    out: Out = None,
    workers: Workers = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeat SBP's experiment with the VGG-like network on CIFAR-10, with the given width and number of epochs."""
    study = experiments.vgg
    settings = {"width": width, "kl_weight": kl_weight, "images": images, "epochs": epochs}
    configs = [
        {**settings, "method": one, "seed": seed}
        for seed, one in itertools.product(
            range(seeds), chosen(method or study.METHODS, study.METHODS, "method")
        )
    ]
    _make(study, "vgg", configs, data_root, cache, out, workers, Output(json, quiet))


def both(
    data_root: DataRoot,
    network: Annotated[
        list[str] | None, typer.Option(help="lenet5_caffe or mlp_mixer-64x2; both by default.")
    ] = None,
    dataset: Annotated[str, typer.Option("--data", help="mnist or fashion_mnist.")] = "fashion_mnist",
    images: Images = 54_000,
    epochs: Epochs = 12,
    seeds: Seeds = 1,
    cache: Cache = Path("runs/both"),
    out: Out = None,
    workers: Workers = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare pruning structures and then the remaining weights with pruning only one of them."""
    study = experiments.both
    chosen([dataset], ("mnist", "fashion_mnist"), "data set")
    settings = {"data": dataset, "images": images, "epochs": epochs}
    configs = [
        {"network": net, **settings, "method": method, "seed": seed}
        for seed, net, method in itertools.product(
            range(seeds), chosen(network or study.NETWORKS, study.NETWORKS, "network"), study.METHODS
        )
    ]
    _make(study, "both", configs, data_root, cache, out, workers, Output(json, quiet))


def precision(
    data_root: DataRoot,
    network: Annotated[list[str] | None, typer.Option(help="mlp or lenet5; both by default.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--data", help="mnist, fashion_mnist or cifar10; repeat for several.")
    ] = None,
    epochs: Epochs = 8,
    seeds: Seeds = 1,
    cache: Cache = Path("runs/precision"),
    out: Out = None,
    workers: Workers = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune by BMRS_U-p and shorten the remaining mantissas to p bits: the link to floating-point precision."""
    poster = experiments.poster
    networks = chosen(network or poster.NETWORKS, poster.NETWORKS, "network")
    datasets = chosen(dataset or ["fashion_mnist"], poster.DATASETS, "data set")
    configs = [
        {
            "network": net,
            "dataset": name,
            "kl_weight": poster.PROTOCOLS["ours"].default[net],
            "epochs": epochs,
            "seed": seed,
        }
        for seed, net, name in itertools.product(range(seeds), networks, datasets)
    ]
    _make(experiments.precision, "precision", configs, data_root, cache, out, workers, Output(json, quiet))


def tasks(
    task: Annotated[list[str] | None, typer.Option(help="Task; repeat for several, all by default.")] = None,
    epochs: Epochs = 36,
    dense_epochs: Annotated[int, typer.Option(min=0, help="Epochs without gains before the path.")] = 12,
    seeds: Seeds = 1,
    cache: Cache = Path("runs/tasks"),
    out: Out = None,
    workers: Workers = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune networks for tables, a time series, text and segmentation; installed packages bring the data."""
    study = experiments.tasks
    configs = [
        {"task": name, "epochs": epochs, "dense_epochs": dense_epochs, "seed": seed}
        for seed, name in itertools.product(range(seeds), chosen(task or study.TASKS, study.TASKS, "task"))
    ]
    _make(study, "tasks", configs, None, cache, out, workers, Output(json, quiet))


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


def _make(
    study: Any,
    name: str,
    configs: Sequence[Mapping[str, Any]],
    data_root: Path | None,
    cache: Path,
    out: Path | None,
    workers: int,
    output: Output,
) -> None:
    """Make the runs of a study (``run``, ``page``, ``KEYS``), show its page, and add them to its file."""
    if out is not None:
        prepare(out / f"{name}.json", study.KEYS)
    folders = {"models": str(runs.MODELS)} | ({"data_root": str(data_root)} if data_root else {})
    run = functools.partial(study.run, **folders)
    results = experiments.sweep.Sweep(run, cache, workers).execute(configs, progress=output.progress)
    made = [{**config, **result} for config, result in zip(configs, results, strict=True)]
    output.show(Markdown(study.page(made)))
    output.result({"runs": made})
    if out is not None:
        write_page(out / f"{name}.md", study.page(added(out / f"{name}.json", made, study.KEYS)))
