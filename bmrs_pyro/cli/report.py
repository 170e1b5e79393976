"""``bmrs report``: what a run removed and how clear the evidence was."""

from __future__ import annotations

__all__ = ["report", "show_report"]

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bmrs_pyro import data
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource
from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.files import refuse_unwritable, write_atomically
from bmrs_pyro.metrics import CORRUPTIONS, Evaluation, averaged, corrupted, evaluate
from bmrs_pyro.network import complexity
from bmrs_pyro.reduction import ModelReduction, named_criterion
from bmrs_pyro.reporting import family_table, html_report, plot_evidence, refuse_figure, save_figure
from bmrs_pyro.runs import RunDirectory, run_data

_DRAWS = 30


def report(
    run: Annotated[Path, typer.Argument(help="Run directory of bmrs fit.")],
    picture: Annotated[
        Path | None, typer.Option(help="Draw the histogram of ΔF into this file (.png, .svg, .pdf).")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with all figures into this file; needs the run's data.")
    ] = None,
    trust_source: TrustSource = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print size, survivors and range of ΔF of every structure family."""
    directory, output = RunDirectory(run, trust_source), Output(json, quiet)
    if picture is not None:
        refuse_figure(picture)
    if html is not None:
        refuse_unwritable(html)
    show_report(directory, output)
    if picture is not None:
        save_figure(plot_evidence(directory.decision()), picture)
        output.show(f"histogram in {picture}")
    if html is not None:
        page = html_report(directory, dict(_evaluations(directory)), _reduced_prior(directory))
        write_atomically(html, lambda file: file.write_text(page, encoding="utf-8"))
        output.show(f"page in {html}")


def show_report(run: RunDirectory, output: Output) -> None:
    """Print a run's table, with the sizes of the dense and the small network."""
    example, decision = run.example(), run.decision()
    dense, small = complexity(run.dense(), example), complexity(run.small(), example)
    output.show(family_table(decision))
    for what in ("parameters", "macs"):
        before, after = getattr(dense, what), getattr(small, what)
        output.show(f"{what} {before:,} → {after:,} ({1 - after / before:.1%} fewer)")
    accuracy = run.validation_accuracy()
    if accuracy is not None:
        output.show(f"validation accuracy of the small network: {accuracy:.2%}")
    families: dict[str, Any] = {
        name: {"size": len(mask), "kept": int(mask.sum())} for name, mask in decision.keep.items()
    }
    output.result(
        {
            "run": str(run.path),
            "criterion": decision.criterion,
            "families": families,
            "dense": asdict(dense),
            "small": asdict(small),
            "validation_accuracy": accuracy,
        }
    )


def _evaluations(run: RunDirectory) -> Iterator[tuple[str, Evaluation]]:
    test = run_data(run).test
    batches, small = data.Batches(test, 500, shuffle=False), run.small()
    yield "test data", evaluate(small, batches, test.num_classes)
    network, posteriors, _ = run.network()
    torch.manual_seed(0)
    predicted = averaged(network, posteriors, _DRAWS)
    yield f"mean of {_DRAWS} draws of the gains", evaluate(predicted, batches, test.num_classes)
    for corruption in CORRUPTIONS if len(test.input_shape) == 3 else ("noise", "contrast"):
        damaged = corrupted(batches, corruption)
        yield f"{corruption}, degree 3 of 5", evaluate(small, damaged, test.num_classes)


def _reduced_prior(run: RunDirectory) -> Any:
    name = run.decision().criterion
    criterion = named_criterion(name) if name.startswith("bmrs-") else None
    if not isinstance(criterion, ModelReduction):
        return None
    posterior = next(iter(run.network()[1].values()))
    if callable(criterion.reduced):
        return criterion.reduced(LogUniform(posterior.low, posterior.high))
    return criterion.reduced
