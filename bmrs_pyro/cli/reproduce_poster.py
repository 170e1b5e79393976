"""``bmrs reproduce poster`` and others with its networks and data sets."""

from __future__ import annotations

__all__ = ["curves", "larger", "path", "poster", "precision", "torch_pruning"]

import functools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bmrs_pyro import experiments
from bmrs_pyro.cli.options import with_options_of
from bmrs_pyro.cli.results import read_rows
from bmrs_pyro.cli.studying import Runs, RunsOnData, chosen

Protocol = Annotated[str, typer.Option(help="'published' or 'ours'.")]
Networks = Annotated[list[str] | None, typer.Option(help="mlp or lenet5; repeat for both.")]
Datasets = Annotated[
    list[str] | None, typer.Option("--data", help="mnist, fashion_mnist or cifar10; repeat for several.")
]


@with_options_of(call=RunsOnData(cache=Path("runs/poster"), workers=2))
def poster(
    protocol: Protocol = "ours",
    network: Networks = None,
    dataset: Datasets = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="none, l2, expected, snr, bmrs-n, bmrs-u-8 or bmrs-u-4; repeat for several."),
    ] = None,
    kl_weight: Annotated[
        list[float] | None, typer.Option(help="Factor of the KL weight; by default the protocol's grid.")
    ] = None,
    *,
    call: RunsOnData,
) -> None:
    """Repeat the BMRS poster: {MLP, LeNet5} × {MNIST, Fashion-MNIST, CIFAR-10} × pruning methods."""
    study, shared = experiments.poster.page.STUDY, experiments.poster.shared_posterior
    cache = _of_recipe(call, protocol)
    methods = chosen(method, experiments.poster.runs.METHODS, "method")
    configs = _grid(call, protocol, network, dataset, methods, kl_weight or ())
    run = functools.partial(shared.run, data_root=call.root, cache=str(cache))
    call.prepare(study)
    # in this order: ranked methods start from posteriors, and remove as much as BMRS_N's runs
    call.make(run, shared.prerequisites(configs), cache)
    call.publish(study, call.make(run, configs, cache))


@with_options_of(call=RunsOnData(cache=Path("runs/poster"), workers=2))
def curves(
    protocol: Protocol = "ours",
    network: Networks = None,
    dataset: Datasets = None,
    kl_weight: Annotated[
        list[float] | None,
        typer.Option(help="Factor of the KL weight; by default the protocol's."),
    ] = None,
    *,
    call: RunsOnData,
) -> None:
    """Apply all criteria to posteriors of unpruned networks: curves, rank correlations, evidence, sensitivity."""
    study, shared = experiments.poster.post_training_summary.STUDY, experiments.poster.shared_posterior
    cache = _of_recipe(call, protocol)
    default = experiments.poster.runs.PROTOCOLS[protocol].default
    configs = [
        config
        for name in chosen(network, experiments.poster.runs.NETWORKS, "network")
        for config in _grid(call, protocol, [name], dataset, [shared.POSTERIOR], kl_weight or [default[name]])
    ]
    train = functools.partial(shared.run, data_root=call.root, cache=str(cache))
    read = functools.partial(experiments.poster.post_training.read, data_root=call.root, cache=str(cache))
    intact = functools.partial(shared.has_posterior, cache=str(cache))
    call.prepare(study)
    unread = [config for config in configs if experiments.sweep.cached(_reading(config), cache) is None]
    call.make(train, unread, cache, intact=intact)
    call.publish(study, call.make(read, [_reading(config) for config in configs], cache))


@with_options_of(call=RunsOnData(cache=Path("runs/path"), workers=2))
def path(network: Networks = None, dataset: Datasets = None, *, call: RunsOnData) -> None:
    """Prune {MLP, LeNet5} × {MNIST, Fashion-MNIST, CIFAR-10} without options, with --max-loss and with --max-macs."""
    study = experiments.poster.paths
    configs = experiments.study.grid(
        call.seeds,
        network=chosen(network, experiments.poster.runs.NETWORKS, "network"),
        dataset=chosen(dataset, experiments.poster.runs.DATASETS, "data set"),
    )
    run = functools.partial(study.run, data_root=call.root)
    for one in (study.study_of(), study.POINTS):
        call.prepare(one)
    made = call.make(run, configs)
    paths = [{key: one[key] for key in (*study.POINTS.keys, "path")} for one in made]
    paths = call.with_earlier(study.POINTS, paths)
    known = read_rows(call.out / "poster.json") if call.out else []
    unpruned = experiments.spread.where(known, method="none", protocol="ours")
    rows = [row for one in made for row in study.rows(one)]
    call.publish(study.study_of(paths, unpruned), rows, paths=paths)


@with_options_of(call=RunsOnData(cache=Path("runs/precision")))
def precision(
    network: Networks = None,
    dataset: Datasets = None,
    epochs: Annotated[int, typer.Option(min=4, help="Epochs of each run.")] = 8,
    *,
    call: RunsOnData,
) -> None:
    """Prune by BMRS_U-p and shorten the remaining mantissas to p bits: the link to floating-point precision."""
    study, known = experiments.poster.precision, experiments.poster.runs
    cells = experiments.study.grid(
        call.seeds,
        network=chosen(network, known.NETWORKS, "network"),
        dataset=chosen(dataset or ["fashion_mnist"], known.DATASETS, "data set"),
    )
    weights = known.PROTOCOLS["ours"].default
    configs = [{**cell, "kl_weight": weights[cell["network"]], "epochs": epochs} for cell in cells]
    call.conduct(study.STUDY, study.run, configs, data_root=call.root)


@with_options_of(call=RunsOnData(cache=Path("runs/larger")))
def larger(
    network: Annotated[
        list[str] | None, typer.Option(help="resnet-16x1x3 or vit-64x2; both by default.")
    ] = None,
    images: Annotated[int, typer.Option(min=100, help="Number of training images; the first ones.")] = 20_000,
    epochs: Annotated[int, typer.Option(min=4, help="Epochs of each run, a third without pruning.")] = 15,
    *,
    call: RunsOnData,
) -> None:
    """Prune a residual network and a vision transformer for CIFAR-10 during training and after it."""
    study = experiments.poster.larger
    configs = study.grid(chosen(network, study.NETWORKS, "network"), images, epochs, call.seeds)
    call.conduct(study.STUDY, study.run, configs, data_root=call.root)


@with_options_of(call=RunsOnData(cache=Path("runs/torch-pruning")))
def torch_pruning(network: Networks = None, dataset: Datasets = None, *, call: RunsOnData) -> None:
    """Cut the poster's networks by torch-pruning, to our compression in as many epochs (extra: compare)."""
    study, known, root = experiments.poster.cuts, experiments.poster.runs, call.root
    poster = read_rows(call.out / "poster.json") if call.out else []
    mine = study.ours(poster)
    cells = experiments.study.grid(
        call.seeds,
        network=chosen(network, known.NETWORKS, "network"),
        dataset=chosen(dataset, known.DATASETS, "data set"),
    )
    if missing := [cell for cell in cells if (cell["network"], cell["dataset"]) not in mine]:
        where = "--out is missing, so there is" if call.out is None else f"{call.out} has"
        raise ValueError(
            f"{where} no poster.json with our runs of {missing[0]['network']} on {missing[0]['dataset']}, which set "
            "the compression; make them first: bmrs reproduce poster --out OUT"
        )
    configs = [
        {**cell, "compression": _compression(mine[cell["network"], cell["dataset"]])} for cell in cells
    ]
    page = study.study_of(poster)
    call.prepare(page)
    made = call.make(functools.partial(study.run, data_root=root), configs)
    call.publish(page, [row for one in made for row in study.rows(one)])


def _compression(runs: Sequence[Mapping[str, Any]]) -> float:
    return round(statistics.mean(row["compression"] for row in runs), 2)


def _of_recipe(call: Runs, protocol: str) -> Path:
    """Return the cache folder of runs with the present recipe."""
    chosen([protocol], experiments.poster.runs.PROTOCOLS, "protocol")
    return call.cache / experiments.poster.runs.recipe_key(protocol)


def _reading(config: experiments.sweep.Config) -> experiments.sweep.Config:
    return {**config, "method": "curves"}


def _grid(
    call: RunsOnData,
    protocol: str,
    networks: Sequence[str] | None,
    datasets: Sequence[str] | None,
    methods: Sequence[str],
    weights: Sequence[float],
) -> list[experiments.sweep.Config]:
    return experiments.poster.runs.grid(
        protocol,
        chosen(networks, experiments.poster.runs.NETWORKS, "network"),
        chosen(datasets, experiments.poster.runs.DATASETS, "data set"),
        methods,
        list(dict.fromkeys(weights)),
        call.seeds,
    )
