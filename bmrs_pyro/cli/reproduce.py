"""``bmrs reproduce``: the experiments of the sources, our numbers beside theirs."""

from __future__ import annotations

__all__ = ["reproduce"]

import functools
from json import dumps, loads
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from bmrs_pyro.cli.demo import LENET5
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_bmr import bmr
from bmrs_pyro.experiments import poster as experiment
from bmrs_pyro.experiments import sbp as sbp_experiment
from bmrs_pyro.experiments.poster_summary import fronts, markdown, plot_fronts
from bmrs_pyro.experiments.sweep import Sweep
from bmrs_pyro.inference import write_atomically

reproduce = typer.Typer(
    help="Run the experiments of the sources and print our numbers beside theirs.", no_args_is_help=True
)
reproduce.command()(bmr)


@reproduce.command()
def poster(
    data_root: Annotated[
        Path, typer.Option(help="Folder of the data sets: torchvision's layout or NAME.npz.")
    ],
    protocol: Annotated[str, typer.Option(help="'published' or 'ours'.")] = "ours",
    network: Annotated[list[str] | None, typer.Option(help="mlp or lenet5; repeat for both.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--data", help="mnist, fashion_mnist or cifar10; repeat for several.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="none, snr, bmrs-n, bmrs-u-8 or bmrs-u-4; repeat for several.")
    ] = None,
    kl_weight: Annotated[
        list[float] | None, typer.Option(help="Factor of the KL weight; by default the protocol's grid.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ... of each.")] = 1,
    cache: Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")] = Path(
        "runs/poster"
    ),
    out: Annotated[
        Path | None, typer.Option(help="Folder for poster.json, its table and its figure.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Runs at a time.")] = 2,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeat the BMRS poster: {MLP, LeNet5} × {MNIST, Fashion-MNIST, CIFAR-10} × pruning methods."""
    output = Output(json, quiet)
    networks, datasets = network or experiment.NETWORKS, dataset or experiment.DATASETS
    methods = method or experiment.METHODS
    for given, known, what in (
        ([protocol], experiment.PROTOCOLS, "protocol"),
        (networks, experiment.NETWORKS, "network"),
        (datasets, experiment.DATASETS, "data set"),
        (methods, experiment.METHODS, "method"),
    ):
        for name in given:
            if name not in known:
                raise ValueError(f"{what} {name!r} is unknown here; use one of {', '.join(known)}")
    configs = experiment.grid(protocol, networks, datasets, methods, tuple(kl_weight or ()), seeds)
    run = functools.partial(experiment.run, models=str(LENET5.parent), data_root=str(data_root))
    results = Sweep(run, cache, workers).execute(configs, progress=output.progress)
    rows = [{**config, **result} for config, result in zip(configs, results, strict=True)]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        rows = _merged(out / "poster.json", rows)
        text = dumps(rows, indent=1) + "\n"
        write_atomically(out / "poster.json", lambda file: file.write_text(text))
    points = fronts(rows, protocol)
    table = markdown(points)
    output.show(Markdown(table))
    output.result({"runs": rows})
    if out is not None:
        write_atomically(out / f"poster-{protocol}.md", lambda file: file.write_text(table))
        plot_fronts(points).savefig(out / f"poster-{protocol}.png", dpi=120)


@reproduce.command()
def sbp(
    data_root: Annotated[Path, typer.Option(help="Folder that holds MNIST.")],
    method: Annotated[str, typer.Option(help="snr (as published) or bmrs-n.")] = "snr",
    kl_weight: Annotated[list[float] | None, typer.Option(help="Factors of the mean KL.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ... of each.")] = 1,
    epochs: Annotated[int, typer.Option(help="Epochs with pruning.")] = 30,
    fine_tune_epochs: Annotated[int, typer.Option(help="Epochs after them, without.")] = 10,
    cache: Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")] = Path(
        "runs/sbp"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder for sbp.json and its table.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeat the MNIST experiments of Structured Bayesian Pruning, with the measured speed of the small networks."""
    if method not in ("snr", "bmrs-n"):
        raise ValueError(f"method {method!r} is unknown here; use snr or bmrs-n")
    output = Output(json, quiet)
    configs = [
        {
            "network": network,
            "method": method,
            "kl_weight": weight,
            "seed": seed,
            "epochs": epochs,
            "fine_tune_epochs": fine_tune_epochs,
        }
        for seed in range(seeds)
        for network in sbp_experiment.NETWORKS
        for weight in kl_weight or (0.3,)
    ]
    run = functools.partial(sbp_experiment.run, models=str(LENET5.parent), data_root=str(data_root))
    # one at a time: the runs measure latencies
    results = Sweep(run, cache, workers=1).execute(configs, progress=output.progress)
    rows = [{**config, **result} for config, result in zip(configs, results, strict=True)]
    table = sbp_experiment.markdown(rows)
    output.show(Markdown(table))
    output.result({"runs": rows})
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        text = dumps(rows, indent=1) + "\n"
        write_atomically(out / "sbp.json", lambda file: file.write_text(text))
        write_atomically(out / "sbp.md", lambda file: file.write_text(table))


def _merged(file: Path, rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Add rows to those of a file; a run that is there already gives way to the new one."""
    keys = ("network", "dataset", "method", "protocol", "kl_weight", "seed")
    known = loads(file.read_text()) if file.exists() else []
    return list({tuple(row[key] for key in keys): row for row in [*known, *rows]}.values())
