"""``bmrs prune``: decide anew which structures of a finished run to remove."""

from __future__ import annotations

__all__ = ["prune"]

from pathlib import Path
from typing import Annotated

import typer

from bmrs_pyro.cli.criteria import named_criterion, ranked_criterion
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.report import show_report
from bmrs_pyro.cli.run_data import training_batches
from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.inference import Decision, History, Limits, RunDirectory, reestimate_batch_norm_
from bmrs_pyro.network import compact
from bmrs_pyro.reduction import Criterion, KeepMask, score


def prune(
    run: Annotated[Path, typer.Argument(help="Run directory of bmrs fit.")],
    criterion: Annotated[
        str, typer.Option(help="bmrs-n, bmrs-u-4, bmrs-u-8, snr, expected or l2.")
    ] = "bmrs-n",
    fraction: Annotated[
        float | None,
        typer.Option(
            help="For expected and l2: share of structures to remove; by default as many as bmrs-n."
        ),
    ] = None,
    round_to: Annotated[int, typer.Option(help="Numbers of channels kept are multiples of this.")] = 1,
    max_macs: Annotated[
        int | None, typer.Option(help="Most multiply-accumulates for one example of the small network.")
    ] = None,
    max_params: Annotated[int | None, typer.Option(help="Most parameters of the small network.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask a criterion about the posteriors that training left, and write the small network it gives."""
    directory = RunDirectory(run)
    network, posteriors, kept = directory.network()
    first = next(iter(posteriors.values()))
    prior = LogUniform(first.low, first.high)
    decide: Criterion | None
    if criterion in ("expected", "l2"):
        decide = ranked_criterion(criterion, network, posteriors, prior, fraction)
    else:
        decide = named_criterion(criterion)
    if decide is None:
        raise ValueError(
            "criterion 'none' prunes nothing; use bmrs-n, bmrs-u-4, bmrs-u-8, snr, expected or l2"
        )
    scores = score(posteriors, prior, decide)
    limits = Limits(round_to, max_macs, max_params)
    keep = limits.applied(network, KeepMask.from_scores(scores), scores)
    history = History(kept)
    history.note_scores(scores)
    small = compact(network, keep, {name: posterior.mean for name, posterior in posteriors.items()})
    reestimate_batch_norm_(small, training_batches(directory))
    directory.save_decision(Decision.by(decide, criterion, kept.then(keep), history.scores), small)
    show_report(directory, Output(json, quiet))
