"""``bmrs reproduce bmr``: weights pruned by Bayesian model reduction, compared with four other methods."""

from __future__ import annotations

__all__ = ["bmr"]

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from bmrs_pyro import data, experiments, training
from bmrs_pyro.cli.options import with_options_of
from bmrs_pyro.cli.results import added, prepare, read_rows
from bmrs_pyro.cli.studying import RunsOnData, chosen

DATA = ("fashion_mnist", "cifar10")

_KEYS = ("network", "data", "epochs", "warm_up", "steps", "batch", "draws")


@with_options_of(call=RunsOnData(cache=Path("runs/bmr"), seeds=3))
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
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each run; the published runs have 50.")] = 16,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps per epoch at most; the published runs have 500.")
    ] = 400,
    warm_up: Annotated[int, typer.Option(help="How many of these epochs are MAP, before the posterior.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 120,
    draws: Annotated[int, typer.Option(min=1, help="Posterior draws that a prediction averages over.")] = 20,
    device: Annotated[str, typer.Option(help="Where networks are trained, cpu or cuda.")] = "cpu",
    *,
    call: RunsOnData,
) -> None:
    """Compare MAP with flat, hierarchical and two reduced posteriors of all weights: accuracy, calibration, time."""
    study = experiments.weights.bmr
    networks = chosen(network or ["lenet"], study.NETWORKS, "network")
    datasets = chosen(dataset or ["fashion_mnist"], DATA, "data set")
    methods = chosen(method, study.METHODS, "method")
    if not 0 <= warm_up < epochs:
        raise ValueError(
            f"--warm-up is {warm_up}; it must be at least 0 and less than --epochs={epochs}, which include it"
        )
    settings = {"epochs": epochs, "warm_up": warm_up, "steps": steps, "batch": batch_size, "draws": draws}
    training.refuse_unusable(device)
    root = str(call.data_root) if call.data_root else None
    if call.out is not None:
        prepare(call.out / "bmr.json", _KEYS)
    record = []
    for cell in experiments.study.grid(1, network=networks, data=datasets):
        net, name = cell["network"], cell["data"]
        choices = experiments.study.grid(call.seeds, network=[net], data=[name], method=methods)
        configs = [{**one, **settings, "data_root": root} for one in choices]
        by_method: dict[str, list[dict[str, Any]]] = {}
        for row in call.make(functools.partial(study.run, device=device), configs):
            result = {key: row[key] for key in row if key not in configs[0]}
            by_method.setdefault(row["method"], []).append(result)
        if by_method:
            times = study.step_times(net, data.load(name, data_root=root).train, by_method, batch=batch_size)
            found = {
                "network": net,
                "data": name,
                **settings,
                "results": by_method,
                "seconds per step": times,
            }
        else:
            found = _earlier(call, net, name)
        record.append(found)
        title = f"{net} on {name}"
        call.output.show(
            experiments.weights.bmr_page.table(
                found["results"], found["seconds per step"], title, found["steps"]
            )
        )
        if call.out is not None:
            experiments.weights.bmr_page.draw(found["results"], call.out / f"bmr-{net}-{name}.png")
            added(call.out / "bmr.json", [found], _KEYS)
    call.output.result({"experiments": record})


def _earlier(call: RunsOnData, network: str, dataset: str) -> dict[str, Any]:
    """Return the record of a network and data set in --out."""
    known = [] if call.out is None else read_rows(call.out / "bmr.json", _KEYS)
    for row in known:
        if (row["network"], row["data"]) == (network, dataset):
            return row
    raise ValueError(
        f"no run of {network} on {dataset} is finished in --cache or in --out; run without --rebuild"
    )
