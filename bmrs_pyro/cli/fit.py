"""``bmrs fit``: train and prune a network, and write a run directory."""

from __future__ import annotations

__all__ = ["fit"]

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bmrs_pyro import distributed, files, runs, training
from bmrs_pyro.cli.options import flags, given_options, with_options_of
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.report import show_report
from bmrs_pyro.data.source import DataSource
from bmrs_pyro.path.target import Target
from bmrs_pyro.training.cycle import Cycle
from bmrs_pyro.training.recipe import ONE_WEIGHT, REDUCTION, Hardware, Recipe

_PANELS = {
    "Target": "What the network may cost",
    "Cycle": "A trained network (--weights)",
    "one weight": "One KL weight (any of these options makes a single run)",
}
_EPOCHS, _DENSE_EPOCHS, _REDUCTION_EPOCHS = 36, 12, 15


def _panel(kind: str, field: str) -> str:
    return _PANELS.get("one weight" if field in ONE_WEIGHT else kind, kind)


@with_options_of(_panel, source=DataSource, target=Target, recipe=Recipe, cycle=Cycle, hardware=Hardware)
def fit(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="FILE.py, module:callable, torchvision:NAME or timm:NAME.")],
    out: Annotated[Path, typer.Option(help="New run directory.")],
    source: DataSource,
    target: Target,
    recipe: Recipe,
    cycle: Cycle,
    hardware: Hardware,
    epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Epochs of the path, by default {_EPOCHS}; with --weights, all epochs of the reduction, by default "
            f"{_REDUCTION_EPOCHS}; at one KL weight, epochs with pruning, by default 20.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    dense_epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Epochs without gains before the path, by default {_DENSE_EPOCHS}.",
            rich_help_panel=_PANELS["Target"],
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Reduce a trained network: FILE.safetensors, or FILE.pt of a state dict.",
            rich_help_panel=_PANELS["Cycle"],
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out with its own options, if there is one."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train and prune a network, to the smallest size that predicts as well or to a target; write a run directory."""
    given = given_options(context)
    plan = _plan(recipe, target, cycle, weights, epochs, dense_epochs, given)
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
                weights=weights,
                hardware=own,
                **plan,
            )

    with distributed.init_distributed(hardware.device) as device:
        own = replace(hardware, device=device or "cpu")
        training.refuse_unusable(own.device or "cpu")
        if hardware.cuda_graphs:
            training.refuse_unrecordable(own.device or "cpu")
        distributed.main_process_first(prepare)
        first = distributed.rank() == 0
        output = Output(json and first, quiet or not first)
        output.note(_assumed(run.config, given))
        try:
            runs.train_run(run, hardware=own, progress=output.progress)
        except files.WriteError as error:
            raise runs.RunError(
                f"{error}; files saved before are intact: fix the cause, then continue with --resume"
            ) from None
        if first:
            show_report(run, output)


def _plan(
    recipe: Recipe,
    target: Target,
    cycle: Cycle,
    weights: Path | None,
    epochs: int | None,
    dense_epochs: int | None,
    given: set[str],
) -> dict[str, Any]:
    """Return the options of a run: along the path, at one KL weight, or the reduction of a trained network."""
    single = given & {*ONE_WEIGHT} - ({"round_to"} if weights else set())
    trained = weights is not None and not single and recipe.prunes
    own = {field.name for field in fields(Cycle)} - {field.name for field in fields(Recipe)}
    if not trained and (names := flags(given & own)):
        raise ValueError(
            f"{names} {'are' if ',' in names else 'is'} for a trained network: give its --weights, and no KL weight"
        )
    if single or not recipe.prunes:
        return {"recipe": _at_one_weight(recipe, epochs, target, given)}
    if not trained:
        recipe = replace(recipe, epochs=_EPOCHS if epochs is None else epochs)
        dense_epochs = _DENSE_EPOCHS if dense_epochs is None else dense_epochs
        return {"recipe": recipe, "target": target, "dense_epochs": dense_epochs}
    useless = {"dense_epochs", *(field.name for field in fields(Recipe))} - {
        *REDUCTION,
        "max_macs",
        "max_params",
    }
    if names := flags(given & useless):
        raise ValueError(
            f"{names} {'have' if ',' in names else 'has'} no effect on a trained network (--weights): leave it out"
        )
    cycle = replace(cycle, lr=recipe.lr if "lr" in given else None, bfloat16=recipe.bfloat16)
    recipe = replace(recipe, epochs=_REDUCTION_EPOCHS if epochs is None else epochs)
    return {"recipe": recipe, "target": target, "cycle": cycle}


def _assumed(config: runs.RunConfig, given: set[str]) -> str:
    """Say what the labels are taken for, and how to say otherwise where that is not sure."""
    likelihood = config.recipe.likelihood
    outputs = "classes" if likelihood.startswith("categorical") else "outputs"
    text = f"{config.data.data}: {config.num_classes} {outputs}, likelihood {likelihood}"
    if "likelihood" in given or Path(config.data.data).suffix not in (".npz", ".csv", ".parquet"):
        return text
    if any([*config.columns.values()][-1:]):  # of a table whose target is text
        return text
    return f"{text}, which is assumed: for counts give --likelihood poisson, for values --likelihood normal"


def _at_one_weight(recipe: Recipe, epochs: int | None, target: Target, given: set[str]) -> Recipe:
    """Return the recipe of a run at one KL weight, with its budgets."""
    why = next((flags([name]) for name in ONE_WEIGHT if name in given), "--criterion none")
    path_alone = ("score", "max_loss", "max_bytes", "max_latency", "latency_batch_size", "dense_epochs")
    if names := flags(given & {*path_alone}):
        are = "are" if "," in names else "is"
        raise ValueError(
            f"{names} {are} for a run along the path, and {why} makes a run at one KL weight: leave one out"
        )
    budgets: dict[str, Any] = {}
    for name in ("max_macs", "max_params"):
        budget = getattr(target, name)
        if not isinstance(budget, int | None):
            raise ValueError(f"{name} is {budget!r}; a run at one KL weight ({why}) takes an integer")
        budgets[name] = budget
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
