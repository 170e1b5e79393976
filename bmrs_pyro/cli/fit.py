"""``bmrs fit``: train and prune a network, and write a run directory."""

from __future__ import annotations

__all__ = ["fit"]

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bmrs_pyro import distributed, files, runs, training
from bmrs_pyro.cli.options import with_options_of
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.report import show_report
from bmrs_pyro.data.source import DataSource
from bmrs_pyro.training.choosing import Target
from bmrs_pyro.training.recipe import ONE_WEIGHT, Hardware, Recipe

_COST, _ONE_WEIGHT = (
    "What the network may cost (run along the path)",
    "One KL weight (any of these options replaces the path)",
)
_EPOCHS, _DENSE_EPOCHS = 36, 12


def _panel(kind: str, field: str) -> str:
    return _COST if kind == "Target" else _ONE_WEIGHT if field in ONE_WEIGHT else kind


@with_options_of(_panel, source=DataSource, target=Target, recipe=Recipe, hardware=Hardware)
def fit(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="FILE.py, module:callable, torchvision:NAME or timm:NAME.")],
    out: Annotated[Path, typer.Option(help="New run directory.")],
    source: DataSource,
    target: Target,
    recipe: Recipe,
    hardware: Hardware,
    epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Epochs of the path, by default {_EPOCHS}; at one KL weight, epochs with pruning, by default 20.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    dense_epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Epochs without gains before the path, by default {_DENSE_EPOCHS}, or 0 with --weights.",
            rich_help_panel=_COST,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from trained weights: FILE.safetensors, or FILE.pt of a state dict."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out with its own options, if there is one."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train and prune a network, to the smallest size that predicts as well or to a target; write a run directory."""
    given = _given(context)
    along = not (given & {*ONE_WEIGHT}) and recipe.prunes
    if along:
        recipe = replace(recipe, epochs=_EPOCHS if epochs is None else epochs)
        if dense_epochs is None:
            dense_epochs = 0 if weights else _DENSE_EPOCHS
    else:
        recipe = _at_one_weight(recipe, epochs, target, given)
    run = runs.RunDirectory(out, trust_source=True)  # the user names the source here

    def prepare() -> None:
        nonlocal run
        if resume and run.exists():
            _refuse_another(run, context, given)
        else:
            run = runs.begin_run(
                out,
                model,
                source,
                recipe,
                target=target if along else None,
                dense_epochs=dense_epochs or 0,
                weights=weights,
                hardware=own,
            )

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
                f"{error}; files saved before are intact: fix the cause, then continue with --resume"
            ) from None
        if first:
            show_report(run, output)


def _given(context: typer.Context) -> set[str]:
    """Return the names of the options on the command line."""
    origins = {str(one.name): context.get_parameter_source(str(one.name)) for one in context.command.params}
    return {name for name, origin in origins.items() if origin is not None and origin.name == "COMMANDLINE"}


def _at_one_weight(recipe: Recipe, epochs: int | None, target: Target, given: set[str]) -> Recipe:
    """Return the recipe of a run at one KL weight, with its budgets."""
    why = next((f"--{name.replace('_', '-')}" for name in ONE_WEIGHT if name in given), "--criterion none")
    path_alone = ("score", "max_loss", "max_bytes", "max_latency", "latency_batch_size", "dense_epochs")
    if names := [f"--{name.replace('_', '-')}" for name in path_alone if name in given]:
        raise ValueError(
            f"{', '.join(names)} is for a run along the path, and {why} makes a run at one KL weight: leave one out"
        )
    budgets: dict[str, Any] = {}
    for name in ("max_macs", "max_params"):
        budget = getattr(target, name)
        if budget is not None:
            try:
                budgets[name] = int(budget)
            except ValueError:
                raise ValueError(
                    f"{name} is {budget!r}; a run at one KL weight ({why}) takes an integer"
                ) from None
    return replace(recipe, epochs=recipe.epochs if epochs is None else epochs, **budgets)


def _refuse_another(run: runs.RunDirectory, context: typer.Context, given: set[str]) -> None:
    """Refuse to resume a run if the network or an option on the command line differs from the run's own."""
    begun = run.config.options()
    others = [
        f"{option.opts[0]} is {context.params[name]}, not {begun[name]}"
        for option in context.command.params
        if (name := str(option.name)) in given & begun.keys()
        and str(context.params[name]) != str(begun[name])
    ]
    if others:
        raise runs.RunError(
            f"{run.path} was started otherwise: {'; '.join(others)}. Leave these options out, or start another run"
        )
