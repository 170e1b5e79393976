"""The output of commands: tables for people, one JSON object for scripts, or nothing."""

from __future__ import annotations

__all__ = ["Json", "Output", "Quiet", "TrustSource", "warnings_in_one_line"]

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console, RenderableType

_PACKAGE = str(Path(__file__).parent.parent)
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_ANSWER: ContextVar[TextIO | None] = ContextVar("answer", default=None)  # None for standard output


def _reserve(context: typer.Context, json: bool) -> bool:
    if json:
        context.with_resource(_reserved_stdout())
    return json


@contextmanager
def _reserved_stdout() -> Iterator[None]:
    """Reserve standard output for the result: prints from a network's own code go to standard error."""
    token = _ANSWER.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _ANSWER.reset(token)


def _hush(context: typer.Context, quiet: bool) -> bool:
    token = _QUIET.set(quiet)
    context.call_on_close(lambda: _QUIET.reset(token))
    return quiet


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Print this package's warnings as one line on standard error, without file and source, each text once.

    With ``--quiet`` only those are printed that have a class of their own: that the result is not what was asked for.
    """
    told: set[str] = set()
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            essential = category.__module__.startswith("bmrs_pyro.")
            if not (issubclass(category, UserWarning) and (essential or filename.startswith(_PACKAGE))):
                others(message, category, filename, lineno, file, line)
            elif (essential or not _QUIET.get()) and (text := " ".join(str(message).split())) not in told:
                told.add(text)
                typer.echo(f"warning: {text}", err=True)

        warnings.showwarning = show
        yield


Json = Annotated[
    bool,
    typer.Option("--json", callback=_reserve, help="Print the result as one JSON object, and nothing else."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", callback=_hush, help="Print nothing; errors still go to standard error."),
]
TrustSource = Annotated[
    bool,
    typer.Option("--trust-source", help="Import the code that the run names as the source of its network."),
]


@dataclass(frozen=True)
class Output:
    """The output of one command.

    Args:
        json: print :meth:`result` and nothing else on standard output.
        quiet: print no tables and no progress; with ``json`` the result is still printed.
    """

    json: bool
    quiet: bool

    @property
    def progress(self) -> bool:
        """Whether to show a progress bar."""
        return not (self.json or self.quiet)

    def show(self, *parts: RenderableType) -> None:
        """Print tables and texts for people; texts are neither wrapped nor parsed as markup."""
        if self.progress:
            for part in parts:
                typer.echo(part) if isinstance(part, str) else Console(markup=False).print(part)

    def note(self, text: str) -> None:
        """Print a text for people; with ``json`` on standard error."""
        if not self.quiet:
            typer.echo(text, err=self.json)

    def result(self, record: Mapping[str, Any]) -> None:
        """Print the JSON object for scripts, with ``json``."""
        if self.json:
            typer.echo(json.dumps(record, allow_nan=False), file=_ANSWER.get())
