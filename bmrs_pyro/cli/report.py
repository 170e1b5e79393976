"""``bmrs report``: what a run removed and how clear the evidence was."""

from __future__ import annotations

__all__ = ["print_report", "report"]

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bmrs_pyro.inference import RunDirectory
from bmrs_pyro.network import complexity
from bmrs_pyro.reporting import family_table, plot_evidence, save_figure


def report(
    run: Annotated[Path, typer.Argument(help="Run directory of bmrs fit.")],
    picture: Annotated[
        Path | None, typer.Option(help="Draw the histogram of ΔF into this file (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """Print size, survivors and range of ΔF of every structure family."""
    directory = RunDirectory(run)
    print_report(directory)
    if picture is not None:
        save_figure(plot_evidence(directory.decision()), picture)
        Console().print(f"histogram in {picture}")


def print_report(run: RunDirectory) -> None:
    """Print a run's table, with the sizes of the dense and the small network."""
    console = Console()
    console.print(family_table(run.decision()))
    example = run.example()
    dense, small = complexity(run.dense(), example), complexity(run.small(), example)
    for what in ("parameters", "macs"):
        before, after = getattr(dense, what), getattr(small, what)
        console.print(f"{what} {before:,} → {after:,} ({1 - after / before:.1%} fewer)")
    metrics = [epoch for epoch in run.metrics() if epoch.accuracy is not None]
    if metrics:
        console.print(f"validation accuracy after {metrics[-1].epoch} epochs: {metrics[-1].accuracy:.2%}")
