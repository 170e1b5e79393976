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
    done = exports.export_run(runs.RunDirectory.opened(run, trust_source), kind, path)
    output = Output(json, quiet)
    output.show(f"{done.path}: {done.bytes:,} bytes, outputs within {done.error:.0e} of the small network's")
    output.result({"path": str(done.path), "format": str(kind), "bytes": done.bytes, "error": done.error})
