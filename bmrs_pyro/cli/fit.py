"""``bmrs fit``: train and prune a network, into a run directory."""

from __future__ import annotations

__all__ = ["fit"]

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bmrs_pyro import distributed, files, runs, training
from bmrs_pyro.cli.options import with_options_of
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.report import show_report
from bmrs_pyro.data.source import DataSource
from bmrs_pyro.training.recipe import Hardware, Recipe


@with_options_of(source=DataSource, recipe=Recipe, hardware=Hardware)
def fit(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="FILE.py, module:callable, torchvision:NAME or timm:NAME.")],
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
    source: DataSource,
    recipe: Recipe,
    hardware: Hardware,
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from trained weights: FILE.safetensors, or FILE.pt of a state dict."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run, with its own options, where there is one.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit a network with random gains, prune it as it learns, and keep the small network in a run directory."""
    run = runs.RunDirectory(out, trust_source=True)  # for it must be the one given here

    def prepare() -> None:
        if resume and run.exists():
            _refuse_another(run, context)
        else:
            runs.begin_run(out, model, source, recipe, weights=weights, hardware=own)

    with distributed.init_distributed(hardware.device) as device:
        own = replace(hardware, device=device or "cpu")
        training.refuse_unusable(own.device or "cpu")
        if hardware.cuda_graphs:
            training.refuse_unrecordable(own.device or "cpu")
        distributed.main_process_first(prepare)
        first = distributed.rank() == 0
        output = Output(json and first, quiet or not first)
        try:
            runs.train_run(run, hardware=own, progress=output.progress)
        except files.WriteError as error:
            raise runs.RunError(
                f"{error}; what was saved before is whole: once that is mended, continue with --resume"
            ) from None
        if first:
            show_report(run, output)


def _refuse_another(run: runs.RunDirectory, context: typer.Context) -> None:
    """Refuse a network or options that were given and are not the run's, which goes on as it was begun."""
    begun = run.config.options()
    others = []
    for option in context.command.params:
        name = str(option.name)
        origin = context.get_parameter_source(name)
        if name not in begun or origin is None or origin.name != "COMMANDLINE":
            continue
        given = context.params[name]
        if (str(given) if isinstance(given, Path) else given) != begun[name]:
            others.append(f"{option.opts[0]} is {given}, not {begun[name]}")
    if others:
        raise runs.RunError(
            f"{run.path} was begun otherwise: {'; '.join(others)}. Resume it with its own, or begin another run"
        )
