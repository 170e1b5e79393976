"""``bmrs prune``: prune a finished run again, without training."""

from __future__ import annotations

__all__ = ["prune"]

from pathlib import Path
from typing import Annotated

import typer

from bmrs_pyro import runs, training
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource
from bmrs_pyro.cli.report import show_report


def prune(
    run: Annotated[Path, typer.Argument(help="Run directory of bmrs fit.")],
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
        int | None, typer.Option(help="Most multiply-accumulates for one example of the small network.")
    ] = None,
    max_params: Annotated[int | None, typer.Option(help="Most parameters of the small network.")] = None,
    trust_source: TrustSource = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply a criterion to the posteriors at the end of training, and write the resulting small network."""
    directory = runs.RunDirectory(run, trust_source)
    runs.prune_run(directory, criterion, fraction, training.Limits(round_to, max_macs, max_params))
    show_report(directory, Output(json, quiet))
