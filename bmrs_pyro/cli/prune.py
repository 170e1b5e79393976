"""``bmrs prune``: prune a finished run again from its posteriors."""

from __future__ import annotations

__all__ = ["prune"]

from dataclasses import fields
from typing import Annotated

import typer

from bmrs_pyro import runs, training
from bmrs_pyro.cli.options import Run, flags, given_options, with_options_of
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource
from bmrs_pyro.cli.report import show_report
from bmrs_pyro.path.target import Target
from bmrs_pyro.training.cycle import Cycle

_FINE_TUNING = "Fine-tuning (with --fine-tune-epochs)"


@with_options_of(lambda *_: _FINE_TUNING, cycle=Cycle)
def prune(
    context: typer.Context,
    run: Run,
    cycle: Cycle,
    criterion: Annotated[
        str, typer.Option(help="bmrs-n, bmrs-u-4, bmrs-u-8, snr, expected or l2.")
    ] = "bmrs-n",
    fraction: Annotated[
        float | None,
        typer.Option(
            help="For expected and l2: share of the remaining structures to remove; by default bmrs-n's share."
        ),
    ] = None,
    round_to: Annotated[int, typer.Option(help="Numbers of channels kept are multiples of this.")] = 1,
    max_macs: Annotated[
        str | None,
        typer.Option(help="Most multiply-accumulates for one example: a number, or a share such as 30%."),
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="Most parameters: a number, or a share such as 30%.")
    ] = None,
    fine_tune_epochs: Annotated[
        int,
        typer.Option(help="Train the small network for this many epochs.", rich_help_panel=_FINE_TUNING),
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...", rich_help_panel=_FINE_TUNING)] = "cpu",
    trust_source: TrustSource = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply a criterion to the posteriors at the end of training, and write the resulting small network.

    The posteriors are kept, so that a run can be pruned to several budgets. Shares are those of the dense network.
    """
    without = {"device", *(field.name for field in fields(Cycle))} & given_options(context)
    if without and not fine_tune_epochs:
        raise ValueError(f"{flags(without)} has no effect without training; give --fine-tune-epochs too")
    target = Target(max_macs=max_macs, max_params=max_params)
    training.refuse_unusable(device)
    directory, output = runs.RunDirectory.opened(run, trust_source), Output(json, quiet)
    runs.prune_run(
        directory,
        criterion,
        fraction,
        training.Limits(round_to),
        target=target,
        epochs=fine_tune_epochs,
        cycle=cycle,
        device=device,
        progress=output.progress,
    )
    show_report(directory, output)
