"""``bmrs reproduce trained``: trained networks pruned to budgets, by this package and by torch-pruning."""

from __future__ import annotations

__all__ = ["trained"]

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from bmrs_pyro import experiments, training
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_options import Seeds, Workers, chosen
from bmrs_pyro.cli.reproduce_poster import Cache, DataRoot, Rebuild, required_root
from bmrs_pyro.cli.results import added, prepare, write_page

_KEYS = ("network", "contender", "budget", "epochs", "seed")


def trained(
    data_root: DataRoot = None,
    network: Annotated[list[str] | None, typer.Option(help="vgg or resnet20; repeat for both.")] = None,
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
    seeds: Seeds = 1,
    device: Annotated[str, typer.Option(help="Where networks are trained, cpu or cuda.")] = "cpu",
    cache: Cache = Path("runs/trained"),
    out: Annotated[
        Path | None, typer.Option(help="Folder for trained.json and its page, trained.md.")
    ] = None,
    workers: Workers = 1,
    rebuild: Rebuild = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune trained CIFAR-10 networks to budgets, and compare with torch-pruning (extra: compare)."""
    output, trained_runs = Output(json, quiet), experiments.trained
    configs = trained_runs.grid(
        chosen(network or ["vgg"], trained_runs.NETWORKS, "network"),
        chosen(contender or trained_runs.CONTENDERS, trained_runs.CONTENDERS, "contender"),
        budget or trained_runs.BUDGETS,
        epochs or trained_runs.EPOCHS,
        seeds,
    )
    training.refuse_unusable(device)
    run = functools.partial(
        trained_runs.run, data_root=required_root(data_root, rebuild), cache=str(cache), device=device
    )
    sweep = experiments.sweep.Sweep(run, cache, workers)
    if out is not None:
        prepare(out / "trained.json", _KEYS)
    if not rebuild:
        sweep.execute(configs, progress=output.progress)
    rows = [{**config, **result} for config in configs for result in sweep.results([config])]
    if out is not None:
        rows = added(out / "trained.json", rows, _KEYS)
    page = experiments.trained_page.trained_page(rows)
    output.show(Markdown(page))
    output.result({"runs": rows})
    if out is not None:
        for name in {row["network"] for row in rows}:
            experiments.trained_page.plot(rows, name).savefig(out / f"trained-{name}.png", dpi=120)
        write_page(out / "trained.md", page)
