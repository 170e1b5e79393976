"""``bmrs reproduce tasks``: regression, text and segmentation, pruned by the defaults and to half of the MACs."""

from __future__ import annotations

__all__ = ["tasks"]

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from bmrs_pyro import experiments, runs
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_options import Seeds, Workers, chosen
from bmrs_pyro.cli.results import added, prepare, write_page

_KEYS = ("task", "epochs", "dense_epochs", "seed")


def tasks(
    task: Annotated[
        list[str] | None, typer.Option(help="Task to run; repeat for several, all by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of the path.")] = 16,
    dense_epochs: Annotated[int, typer.Option(help="Epochs without gains before the path.")] = 6,
    seeds: Seeds = 1,
    cache: Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")] = Path(
        "runs/tasks"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder for tasks.json and its page, tasks.md.")] = None,
    workers: Workers = 2,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune networks of tasks other than image classification; the data come with installed packages."""
    output, known = Output(json, quiet), experiments.tasks.TASKS
    names = chosen(task or known, known, "task")
    if out is not None:
        prepare(out / "tasks.json", _KEYS)
    configs = [
        {"task": name, "epochs": epochs, "dense_epochs": dense_epochs, "seed": seed}
        for seed in range(seeds)
        for name in names
    ]
    run = functools.partial(experiments.tasks.run, models=str(runs.MODELS))
    results = experiments.sweep.Sweep(run, cache, workers).execute(configs, progress=output.progress)
    rows = [{**config, **result} for config, result in zip(configs, results, strict=True)]
    output.show(Markdown(experiments.tasks_page.page(rows)))
    output.result({"runs": rows})
    if out is not None:
        write_page(out / "tasks.md", experiments.tasks_page.page(added(out / "tasks.json", rows, _KEYS)))
