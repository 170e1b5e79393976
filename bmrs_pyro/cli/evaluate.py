"""``bmrs evaluate``: the small network, or draws of its gains, on the test data."""

from __future__ import annotations

__all__ = ["evaluate"]

from dataclasses import asdict
from typing import Annotated

import typer

from bmrs_pyro import metrics, reporting, runs
from bmrs_pyro import network as networks
from bmrs_pyro.cli.options import Run, given_options
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource


def evaluate(
    context: typer.Context,
    run: Run,
    draws: Annotated[
        int | None,
        typer.Option(help="Number of draws of the gains to average over; by default their means are used."),
    ] = None,
    corruption: Annotated[
        str | None, typer.Option(help="Corrupt the inputs: noise, contrast, blur or occlusion.")
    ] = None,
    severity: Annotated[int, typer.Option(help="Severity of the corruption, from 1 to 5.")] = 3,
    trust_source: TrustSource = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print accuracy, likelihood and calibration on the test data, of the small network or over draws of its gains."""
    if corruption is None and "severity" in given_options(context):
        raise ValueError("--severity has no effect without --corruption; give both")
    directory, output = runs.RunDirectory.opened(run, trust_source), Output(json, quiet)
    test = runs.run_data(directory).test
    small = directory.small()
    predict = reporting.predictor_of(directory, draws)
    batches = runs.serving(test, 500, shuffle=False)
    inputs = batches if corruption is None else metrics.corrupted(batches, corruption, severity)
    result = metrics.evaluate(predict, inputs, likelihood=directory.likelihood())
    example = networks.arguments(directory.example())
    sizes = {
        "dense": networks.complexity(directory.dense(), *example),
        "small": networks.complexity(small, *example),
    }
    column = {f"test {row}": entry for row, entry in reporting.evaluation_rows(result).items()}
    for row, cost in (("parameters", "parameters"), ("MACs", "macs")):
        column[row] = f"{getattr(sizes['small'], cost):,} of {getattr(sizes['dense'], cost):,}"
    title = f"{directory.path}: {len(test)} test examples"
    output.show(reporting.comparison_table({"small": column}, title=title))
    output.result(
        {
            "run": str(run),
            **reporting.evaluation_record(result),
            **{name: asdict(size) for name, size in sizes.items()},
        }
    )
