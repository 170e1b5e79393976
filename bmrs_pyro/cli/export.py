"""``bmrs export``: the small network as a file to deploy."""

from __future__ import annotations

__all__ = ["export"]

from pathlib import Path
from typing import Annotated

import typer

from bmrs_pyro import export as exports
from bmrs_pyro import runs
from bmrs_pyro.cli.options import Run
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource


def export(
    run: Run,
    kind: Annotated[
        exports.Format | None,
        typer.Option("--format", help="File format; by default the suffix of --out, or pt2."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; by default in the run directory.")] = None,
    trust_source: TrustSource = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the small network to a file that takes any batch size, and check the file by running it."""
    path = out or run / f"small.{kind or exports.Format.PT2}"
    kind = kind or exports.Format.of(path)
    directory = runs.RunDirectory.opened(run, trust_source)
    done = exports.export_run(directory, kind, path)
    output = Output(json, quiet)
    output.show(f"{done.path}: {done.bytes:,} bytes, outputs within {done.error:.0e} of the small network's")
    for line in _units(directory.config):
        output.show(line)
    output.result({"path": str(done.path), "format": str(kind), "bytes": done.bytes, "error": done.error})


def _units(config: runs.RunConfig) -> list[str]:
    """Say in which units the file has its inputs and outputs, if they are not the data's."""
    lines = []
    if {*config.mean} != {0.0} or {*config.std} != {1.0}:
        lines.append("Inputs are standardised: minus mean, over std, both in config.json.")
    if any([*config.columns.values()][:-1]):  # the last one is the target
        lines.append("Categories are numbers: places in their lists under columns in config.json.")
    if {*config.target_mean} != {0.0} or {*config.target_std} != {1.0}:
        lines.append("Outputs are standardised: times target_std, plus target_mean, both in config.json.")
    return lines
