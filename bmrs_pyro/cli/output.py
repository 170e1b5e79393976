"""How commands answer: tables for people, one JSON object for scripts, or nothing."""

from __future__ import annotations

__all__ = ["Json", "Output", "Quiet"]

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing; errors still go to standard error.")]


@dataclass(frozen=True)
class Output:
    """Where a command's answer goes.

    Args:
        json: print :meth:`result` and nothing else on standard output.
        quiet: print no tables and no progress; a result asked for with ``json`` is printed all the same.
    """

    json: bool
    quiet: bool

    @property
    def progress(self) -> bool:
        """Whether to show how far a command is."""
        return not (self.json or self.quiet)

    def show(self, *parts: RenderableType) -> None:
        """Print for a person; texts as they are, for they may be long, or hold brackets."""
        if self.progress:
            for part in parts:
                typer.echo(part) if isinstance(part, str) else Console().print(part)

    def result(self, record: Mapping[str, Any]) -> None:
        """Print for a script, if one asked."""
        if self.json:
            typer.echo(json.dumps(record, allow_nan=False))
