"""``bmrs prune``: decide anew which structures of a finished run to remove."""

from __future__ import annotations

__all__ = ["prune"]

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from bmrs_pyro import data
from bmrs_pyro.cli.criteria import RANKED, ranked_criterion
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource
from bmrs_pyro.cli.report import show_report
from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.network import compact
from bmrs_pyro.reduction import Criterion, Decision, KeepMask, named_criterion, score_structures
from bmrs_pyro.runs import RunDirectory, RunError, run_data, training_batches
from bmrs_pyro.training import History, Limits, reestimate_batch_norm_


def prune(
    run: Annotated[Path, typer.Argument(help="Run directory of bmrs fit.")],
    criterion: Annotated[
        str, typer.Option(help="bmrs-n, bmrs-u-4, bmrs-u-8, snr, expected or l2.")
    ] = "bmrs-n",
    fraction: Annotated[
        float | None,
        typer.Option(
            help="For expected and l2: share to remove of the structures training left; else as many as bmrs-n."
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
    """Ask a criterion about the posteriors that training left, and write the small network it gives."""
    if fraction is not None and criterion not in RANKED:
        raise ValueError(
            f"--fraction is for {' and '.join(RANKED)}; {criterion!r} decides by itself how much to remove"
        )
    directory = RunDirectory(run, trust_source)
    with directory.locked():
        _decide(directory, criterion, fraction, Limits(round_to, max_macs, max_params))
    show_report(directory, Output(json, quiet))


def _decide(directory: RunDirectory, criterion: str, fraction: float | None, limits: Limits) -> None:
    network, posteriors, kept = directory.network()
    first = next(iter(posteriors.values()))
    prior = LogUniform(first.low, first.high)
    decide: Criterion | None
    if criterion in RANKED:
        decide = ranked_criterion(criterion, network, posteriors, prior, fraction)
    else:
        decide = named_criterion(criterion)
    if decide is None:
        raise ValueError(
            "criterion 'none' prunes nothing; use bmrs-n, bmrs-u-4, bmrs-u-8, snr, expected or l2"
        )
    scores = score_structures(posteriors, prior, decide)
    keep = limits.applied(network, KeepMask.from_scores(scores), scores)
    history = History(kept)
    history.note_scores(scores)
    small = compact(network, keep, {name: posterior.mean for name, posterior in posteriors.items()})
    reestimate_batch_norm_(small, training_batches(directory))
    decision = Decision.by(decide, criterion, kept.then(keep), history.scores)
    directory.save_decision(decision, small, _validation_accuracy(directory, small))


def _validation_accuracy(run: RunDirectory, small: nn.Module) -> float | None:
    """Return the accuracy on the run's validation data; None where they cannot be had any more."""
    try:
        splits = run_data(run)
    except (data.DataError, RunError):
        return None
    return evaluate(
        small, data.Batches(splits.validation, 1000, shuffle=False), splits.validation.num_classes
    ).accuracy
