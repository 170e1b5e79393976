"""``bmrs export``: the small network as a file to deploy."""

from __future__ import annotations

__all__ = ["export"]

from pathlib import Path
from typing import Annotated

import typer

from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.export import Format, export_run
from bmrs_pyro.runs import RunDirectory


def export(
    run: Annotated[Path, typer.Argument(help="Run directory of bmrs fit.")],
    kind: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.PT2,
    out: Annotated[Path | None, typer.Option(help="File to write; by default in the run directory.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the small network to a file that takes any batch size, and run that file to check it."""
    done = export_run(RunDirectory(run), kind, out or run / f"small.{kind}")
    output = Output(json, quiet)
    output.show(f"{done.path}: {done.bytes:,} bytes, outputs within {done.error:.0e} of the small network's")
    output.result({"path": str(done.path), "format": str(kind), "bytes": done.bytes, "error": done.error})
