"""How commands answer: tables for people, one JSON object for scripts, or nothing."""

from __future__ import annotations

__all__ = ["Json", "Output", "Quiet", "TrustSource"]

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console, RenderableType

_ANSWER: ContextVar[TextIO | None] = ContextVar("answer", default=None)  # None for standard output


def _reserve(context: typer.Context, json: bool) -> bool:
    if json:
        context.with_resource(_reserved_stdout())
    return json


@contextmanager
def _reserved_stdout() -> Iterator[None]:
    """Keep standard output for the result: what a network's own code prints goes to standard error."""
    token = _ANSWER.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _ANSWER.reset(token)


Json = Annotated[
    bool,
    typer.Option("--json", callback=_reserve, help="Print the result as one JSON object, and nothing else."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing; errors still go to standard error.")]
TrustSource = Annotated[
    bool,
    typer.Option("--trust-source", help="Import the code that the run names as its network's source."),
]


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
                typer.echo(part) if isinstance(part, str) else Console(markup=False).print(part)

    def result(self, record: Mapping[str, Any]) -> None:
        """Print for a script, if one asked."""
        if self.json:
            typer.echo(json.dumps(record, allow_nan=False), file=_ANSWER.get())
