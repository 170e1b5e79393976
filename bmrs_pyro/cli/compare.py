"""``bmrs compare``: the dense and the small network side by side."""

from __future__ import annotations

__all__ = ["compare"]

from pathlib import Path
from typing import Annotated

import typer

from bmrs_pyro import reporting, runs
from bmrs_pyro.cli.options import Run
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource


def compare(
    run: Run,
    weights: Annotated[
        Path | None,
        typer.Option(help="Trained weights of the dense network, if the run has none."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Picture of the layers' widths; by default widths.png in the run.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds of ten calls for the median latency.")] = 5,
    trust_source: TrustSource = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print accuracy, calibration, size, memory and latency of both networks, and draw their layers' widths."""
    directory, output = runs.RunDirectory.opened(run, trust_source), Output(json, quiet)
    picture = picture or directory.path / "widths.png"
    reporting.refuse_figure(picture)
    figures = reporting.compare_run(directory, weights, repeats=repeats)
    examples = figures["small"].evaluation.count if figures["small"].evaluation else 0
    output.show(reporting.figures_table(figures, title=f"{directory.path}: {examples} test examples"))
    if figures["dense"].evaluation is None:
        output.show(
            "The run trained weights and gains together, so it has no trained dense network: give --weights FILE"
        )
    dense, small = reporting.layer_widths(directory.dense()), reporting.layer_widths(directory.small())
    reporting.save_figure(reporting.plot_layer_widths(dense, small), picture)
    output.show(f"layer widths in {picture}")
    output.result({"run": str(run), **{name: one.to_json() for name, one in figures.items()}})
