"""``bmrs reproduce path``: ``prune`` with its defaults on the poster's six pairs of network and data set."""

from __future__ import annotations

__all__ = ["path"]

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from bmrs_pyro import experiments, runs
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_options import Seeds, Workers, chosen
from bmrs_pyro.cli.reproduce_poster import Cache, DataRoot, Datasets, Networks, Rebuild, required_root
from bmrs_pyro.cli.results import added, prepare, write_page
from bmrs_pyro.files import parse_json

_RUN = ("network", "dataset", "seed")
_CHOSEN = ("network", "dataset", "seed", "rule", "target")


def path(
    data_root: DataRoot = None,
    network: Networks = None,
    dataset: Datasets = None,
    seeds: Seeds = 1,
    cache: Cache = Path("runs/path"),
    out: Annotated[Path | None, typer.Option(help="Folder for path.json and its page, path.md.")] = None,
    workers: Workers = 2,
    rebuild: Rebuild = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune {MLP, LeNet5} × {MNIST, Fashion-MNIST, CIFAR-10} without options, with --max-loss and with --max-macs."""
    output, cells = Output(json, quiet), experiments.path_cells
    configs = cells.grid(
        chosen(network or experiments.poster.NETWORKS, experiments.poster.NETWORKS, "network"),
        chosen(dataset or experiments.poster.DATASETS, experiments.poster.DATASETS, "data set"),
        seeds,
    )
    run = functools.partial(cells.run, models=str(runs.MODELS), data_root=required_root(data_root, rebuild))
    sweep = experiments.sweep.Sweep(run, cache, workers)
    if out is not None:
        prepare(out / "path.json", _CHOSEN)
        prepare(out / "path-points.json", _RUN)
    if not rebuild:
        sweep.execute(configs, progress=output.progress)
    found = [(config, result) for config in configs for result in sweep.results([config])]
    rows = [row for config, result in found for row in cells.rows(config, result)]
    paths = [{**config, "path": result["path"]} for config, result in found]
    unpruned = []
    if out is not None:
        rows = added(out / "path.json", rows, _CHOSEN)
        paths = added(out / "path-points.json", paths, _RUN)
        poster = out / "poster.json"
        known = parse_json(poster.read_text()) if poster.exists() else []
        unpruned = [row for row in known if (row["method"], row["protocol"]) == ("none", "ours")]
    page = experiments.path_page.path_page(rows, paths, unpruned)
    output.show(Markdown(page))
    output.result({"chosen": rows, "paths": paths})
    if out is not None:
        experiments.path_page.plot_paths(rows, paths).savefig(out / "path.png", dpi=120)
        write_page(out / "path.md", page)
