"""``bmrs compare``: the dense and the small network side by side."""

from __future__ import annotations

__all__ = ["compare"]

from pathlib import Path
from typing import Annotated

import typer

from bmrs_pyro import data
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource
from bmrs_pyro.reporting import (
    compare_networks,
    figures_table,
    layer_widths,
    plot_layer_widths,
    refuse_figure,
    save_figure,
)
from bmrs_pyro.runs import RunDirectory, load_weights_, run_data


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
    directory, output = RunDirectory(run, trust_source), Output(json, quiet)
    picture = picture or directory.path / "widths.png"
    refuse_figure(picture)
    dense, small = directory.dense(), directory.small()
    if weights is not None:
        load_weights_(dense, weights)
    trained = weights is not None or directory.config.weights is not None
    test = run_data(directory).test
    figures = compare_networks(
        {"dense": dense, "small": small},
        data.Batches(test, 500, shuffle=False),
        test.num_classes,
        untrained=() if trained else ("dense",),
        repeats=repeats,
    )
    output.show(figures_table(figures, title=f"{directory.path}: {len(test)} test examples"))
    save_figure(plot_layer_widths(layer_widths(dense), layer_widths(small)), picture)
    output.show(f"layer widths in {picture}")
    output.result({"run": str(run), **{name: one.to_json() for name, one in figures.items()}})
