"""``bmrs compare``: the dense and the small network side by side."""

from __future__ import annotations

__all__ = ["compare"]

from pathlib import Path
from typing import Annotated

import typer

from bmrs_pyro import data, reporting, runs
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource


def compare(
    run: Annotated[Path, typer.Argument(help="Run directory of bmrs fit.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="Trained weights of the dense network, where the run did not start from some."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Picture of the layers' widths; by default widths.png in the run.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds of ten calls that latencies are medians of.")] = 5,
    trust_source: TrustSource = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print accuracy, calibration, size, memory and latency of both networks, and draw their layers' widths."""
    directory, output = runs.RunDirectory(run, trust_source), Output(json, quiet)
    picture = picture or directory.path / "widths.png"
    reporting.refuse_figure(picture)
    dense, small = directory.dense(), directory.small()
    if weights is not None:
        runs.load_weights_(dense, weights)
    trained = weights is not None or directory.config.weights is not None
    test = runs.run_data(directory).test
    figures = reporting.compare_networks(
        {"dense": dense, "small": small},
        data.Batches(test, 500, shuffle=False),
        test.num_classes,
        untrained=() if trained else ("dense",),
        repeats=repeats,
    )
    output.show(reporting.figures_table(figures, title=f"{directory.path}: {len(test)} test examples"))
    reporting.save_figure(
        reporting.plot_layer_widths(reporting.layer_widths(dense), reporting.layer_widths(small)), picture
    )
    output.show(f"layer widths in {picture}")
    output.result({"run": str(run), **{name: one.to_json() for name, one in figures.items()}})
