"""``bmrs reproduce bmr``: weights pruned by Bayesian model reduction, compared with four other methods."""

from __future__ import annotations

__all__ = ["bmr"]

from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from bmrs_pyro import data, experiments
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_options import Seeds, Workers, chosen
from bmrs_pyro.cli.results import added, prepare

DATA = ("fashion_mnist", "cifar10")

_KEYS = ("network", "data", "epochs", "warm_up", "steps", "batch", "draws")


def bmr(
    network: Annotated[
        list[str] | None,
        typer.Option(help="mlp, lenet, mixer, vit, mixer-64x2, vit-64x2; repeat for several."),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--data", help="fashion_mnist or cifar10; repeat for both.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="map, flat, tiered, bmr-spike-and-slab, ... Repeat for several."),
    ] = None,
    seeds: Seeds = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each run; the published runs have 50.")] = 16,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps per epoch at most; the published runs have 500.")
    ] = 400,
    warm_up: Annotated[int, typer.Option(help="How many of these epochs are MAP, before the posterior.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 120,
    draws: Annotated[int, typer.Option(min=1, help="Posterior draws that a prediction averages over.")] = 20,
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the data sets.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")] = Path(
        "runs/bmr"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder for bmr.json and the figures.")] = None,
    workers: Workers = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare MAP with flat, hierarchical and two reduced posteriors of all weights: accuracy, calibration, time."""
    networks = chosen(network or ["lenet"], experiments.bmr.NETWORKS, "network")
    datasets = chosen(dataset or ["fashion_mnist"], DATA, "data set")
    methods = chosen(method or experiments.bmr.METHODS, experiments.bmr.METHODS, "method")
    if not 0 <= warm_up < epochs:
        raise ValueError(
            f"--warm-up is {warm_up}; it must be at least 0 and less than --epochs={epochs}, which include it"
        )
    settings = {
        "data_root": str(data_root) if data_root else None,
        "epochs": epochs,
        "warm_up": warm_up,
        "steps": steps,
        "batch": batch_size,
        "draws": draws,
    }
    if out is not None:
        prepare(out / "bmr.json", _KEYS)
    output = Output(json, quiet)
    sweep = experiments.sweep.Sweep(experiments.bmr.run, cache, workers)
    record = []
    for net, name in product(networks, datasets):
        configs = [
            {"network": net, "data": name, "method": one, "seed": seed, **settings}
            for seed, one in product(range(seeds), methods)
        ]
        results = sweep.execute(configs, progress=output.progress)
        by_method: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for config, result in zip(configs, results, strict=True):
            by_method[str(config["method"])].append(result)
        train = data.load(name, data_root=data_root).train
        times = experiments.bmr.step_times(net, train, methods, batch=batch_size)
        output.show(experiments.bmr_page.table(by_method, times, f"{net} on {name}", steps))
        record.append(
            {"network": net, "data": name, **settings, "results": by_method, "seconds per step": times}
        )
        del record[-1]["data_root"]
        if out is not None:
            experiments.bmr_page.draw(by_method, out / f"bmr-{net}-{name}.png")
            added(out / "bmr.json", record[-1:], _KEYS)
    output.result({"experiments": record})
