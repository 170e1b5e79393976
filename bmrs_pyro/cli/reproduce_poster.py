"""``bmrs reproduce poster`` and ``bmrs reproduce curves``: the BMRS poster's table, and its posteriors."""

from __future__ import annotations

__all__ = ["Cache", "DataRoot", "Datasets", "Networks", "Rebuild", "curves", "poster", "required_root"]

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown

from bmrs_pyro import experiments, runs
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_options import Seeds, Workers, chosen
from bmrs_pyro.cli.results import added, prepare, write_page

DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the data sets: torchvision's layout or NAME.npz.")
]
Protocol = Annotated[str, typer.Option(help="'published' or 'ours'.")]
Networks = Annotated[list[str] | None, typer.Option(help="mlp or lenet5; repeat for both.")]
Datasets = Annotated[
    list[str] | None, typer.Option("--data", help="mnist, fashion_mnist or cifar10; repeat for several.")
]
Cache = Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")]
Rebuild = Annotated[
    bool, typer.Option("--rebuild", help="Use only finished runs, from the cache and from --out.")
]
CACHE = Path("runs/poster")

_KEYS = ("network", "dataset", "method", "protocol", "kl_weight", "seed")


def poster(
    data_root: DataRoot = None,
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
    seeds: Seeds = 1,
    cache: Cache = CACHE,
    out: Annotated[Path | None, typer.Option(help="Folder for poster.json and its page, poster.md.")] = None,
    workers: Workers = 2,
    rebuild: Rebuild = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeat the BMRS poster: {MLP, LeNet5} × {MNIST, Fashion-MNIST, CIFAR-10} × pruning methods."""
    output, cache = Output(json, quiet), _of_recipe(cache, protocol)
    methods = chosen(method or experiments.poster.METHODS, experiments.poster.METHODS, "method")
    configs = _grid(protocol, network, dataset, methods, kl_weight or (), seeds)
    sweep = experiments.sweep.Sweep(
        functools.partial(
            experiments.shared_posterior.run,
            models=str(runs.MODELS),
            data_root=required_root(data_root, rebuild),
            cache=str(cache),
        ),
        cache,
        workers,
    )
    if out is not None:
        prepare(out / "poster.json", _KEYS)
    if not rebuild:
        # in this order: ranked methods start from posteriors, and remove as much as BMRS_N's runs
        for stage in (experiments.shared_posterior.prerequisites(configs), configs):
            if stage:
                sweep.execute(stage, progress=output.progress)
    rows = _finished(sweep, configs)
    if out is not None:
        rows = added(out / "poster.json", rows, _KEYS)
    summary = experiments.poster_summary
    points = summary.fronts(rows, protocol)
    output.show(Markdown(summary.verdict_table(points) + "\n" + summary.markdown(points)))
    output.result({"runs": rows})
    if out is not None:
        for name in {str(row["protocol"]) for row in rows}:
            default = experiments.poster.PROTOCOLS[name].default
            figure = summary.plot_fronts(summary.fronts(rows, name), default)
            figure.savefig(out / f"poster-{name}.png", dpi=120)
        write_page(out / "poster.md", experiments.poster_page.poster_page(rows))


def curves(
    data_root: DataRoot = None,
    protocol: Protocol = "ours",
    network: Networks = None,
    dataset: Datasets = None,
    kl_weight: Annotated[
        list[float] | None,
        typer.Option(help="Factor of the KL weight; by default the protocol's."),
    ] = None,
    seeds: Seeds = 1,
    cache: Cache = CACHE,
    out: Annotated[
        Path | None, typer.Option(help="Folder for curves.json, its page curves.md and figures.")
    ] = None,
    workers: Workers = 2,
    rebuild: Rebuild = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply all criteria to posteriors of unpruned networks: curves, rank correlations, evidence, sensitivity."""
    output, root = Output(json, quiet), required_root(data_root, rebuild)
    cache = _of_recipe(cache, protocol)
    networks = chosen(network or experiments.poster.NETWORKS, experiments.poster.NETWORKS, "network")
    configs = [
        config
        for name in networks
        for config in _grid(
            protocol,
            [name],
            dataset,
            [experiments.shared_posterior.POSTERIOR],
            kl_weight or [experiments.poster.PROTOCOLS[protocol].default[name]],
            seeds,
        )
    ]
    readings = [{**config, "method": "curves"} for config in configs]
    train = functools.partial(
        experiments.shared_posterior.run, models=str(runs.MODELS), data_root=root, cache=str(cache)
    )
    read = functools.partial(experiments.post_training.read, data_root=root, cache=str(cache))
    intact = functools.partial(experiments.shared_posterior.has_posterior, cache=str(cache))
    sweep = experiments.sweep.Sweep(read, cache, workers)
    if out is not None:
        prepare(out / "curves.json", _KEYS)
    if not rebuild:
        unread = [one for one, reading in zip(configs, readings, strict=True) if not sweep.results([reading])]
        if unread:
            experiments.sweep.Sweep(train, cache, workers, intact).execute(unread, progress=output.progress)
        sweep.execute(readings, progress=output.progress)
    rows = _finished(sweep, readings)
    if out is not None:
        rows = added(out / "curves.json", rows, _KEYS)
    output.result({"posteriors": rows})
    if not rows:
        raise ValueError(f"no posterior is finished in {cache} or in --out; run without --rebuild")
    page = experiments.post_training_summary.post_training_page(rows)
    output.show(Markdown(page))
    if out is not None:
        for name, figure in (
            ("curves", experiments.post_training_summary.plot_curves(rows)),
            ("evidence", experiments.post_training_summary.plot_evidence_of(rows)),
            ("decisions", experiments.post_training_summary.plot_decisions(rows)),
        ):
            figure.savefig(out / f"{name}.png", dpi=120)
        write_page(out / "curves.md", page)


def _of_recipe(cache: Path, protocol: str) -> Path:
    """Return the cache folder of runs with the present recipe."""
    chosen([protocol], experiments.poster.PROTOCOLS, "protocol")
    return cache / experiments.poster.recipe_key(protocol, str(runs.MODELS))


def _grid(
    protocol: str,
    networks: Sequence[str] | None,
    datasets: Sequence[str] | None,
    methods: Sequence[str],
    weights: Sequence[float],
    seeds: int,
) -> list[experiments.poster.Config]:
    networks = chosen(networks or experiments.poster.NETWORKS, experiments.poster.NETWORKS, "network")
    datasets = chosen(datasets or experiments.poster.DATASETS, experiments.poster.DATASETS, "data set")
    return experiments.poster.grid(protocol, networks, datasets, methods, list(dict.fromkeys(weights)), seeds)


def required_root(data_root: Path | None, rebuild: bool) -> str:
    """Return the folder of the data sets as a string.

    Raises:
        ValueError: no folder is given, and ``rebuild`` is False.
    """
    if data_root is None and not rebuild:
        raise ValueError("--data-root is missing: the folder of the data sets, as MNIST/raw or mnist.npz")
    return str(data_root)


def _finished(
    sweep: experiments.sweep.Sweep, configs: Sequence[experiments.poster.Config]
) -> list[dict[str, Any]]:
    return [{**config, **result} for config in configs for result in sweep.results([config])]
