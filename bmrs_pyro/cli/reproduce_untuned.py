"""``bmrs reproduce untuned``: the defaults on networks and data that no recipe was tuned on."""

from __future__ import annotations

__all__ = ["untuned"]

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from bmrs_pyro import experiments
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_options import Seeds, Workers
from bmrs_pyro.cli.results import added, prepare, write_page

_KEYS = ("task", "seed")


def untuned(
    seeds: Seeds = 1,
    cache: Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")] = Path(
        "runs/untuned"
    ),
    out: Annotated[
        Path | None, typer.Option(help="Folder for untuned.json and its page, untuned.md.")
    ] = None,
    workers: Workers = 2,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune networks for tables, text and a time series without options."""
    output, room = Output(json, quiet), experiments.untuned
    if out is not None:
        prepare(out / "untuned.json", _KEYS)
    configs = [{"task": task, "seed": seed} for seed in range(seeds) for task in room.TASKS]
    results = experiments.sweep.Sweep(room.run, cache, workers).execute(configs, progress=output.progress)
    rows = [{**config, **result} for config, result in zip(configs, results, strict=True)]
    if out is not None:
        rows = added(out / "untuned.json", rows, _KEYS)
    page = room.untuned_page(rows)
    output.show(Markdown(page))
    output.result({"runs": rows})
    if out is not None:
        write_page(out / "untuned.md", page)
