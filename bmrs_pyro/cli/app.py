"""The ``bmrs`` command: its subcommands, and its error messages."""

from __future__ import annotations

__all__ = ["app", "main"]

import os
import sys
from typing import Any, NoReturn

import typer

from bmrs_pyro.cli.architectures import architectures
from bmrs_pyro.cli.bench import bench
from bmrs_pyro.cli.choose import choose
from bmrs_pyro.cli.compare import compare
from bmrs_pyro.cli.demo import demo
from bmrs_pyro.cli.evaluate import evaluate
from bmrs_pyro.cli.export import export
from bmrs_pyro.cli.fit import fit
from bmrs_pyro.cli.output import warnings_in_one_line
from bmrs_pyro.cli.prune import prune
from bmrs_pyro.cli.report import report
from bmrs_pyro.cli.reproduce import reproduce
from bmrs_pyro.runs.mistakes import line_at_fault, told
from bmrs_pyro.training.allocator import keep_freed_memory

app = typer.Typer(
    help="Bayesian structured pruning: fit a network with random gains, remove what the data do not need.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (demo, fit, choose, prune, evaluate, report, compare, export, architectures, bench):
    app.command()(command)
app.add_typer(reproduce, name="reproduce")

# of click, or of typer's own copy of it
_ClickError = next(
    kind
    for kind in typer.BadParameter.__mro__
    if issubclass(kind, Exception) and kind.__name__ == "ClickException"
)


def main() -> None:
    """Run the command; bad input and errors in a network's code print one line on standard error, with exit status 2.

    If ``BMRS_DEBUG`` is set in the environment, errors keep their traceback.
    """
    keep_freed_memory()
    try:
        with warnings_in_one_line():
            sys.exit(app(prog_name="bmrs", standalone_mode=False) or 0)
    except _ClickError as error:
        _end_usage(error)
    except Exception as error:
        place = line_at_fault(error)
        ours = place is None and not isinstance(error, ValueError | TypeError | OSError | ArithmeticError)
        if ours or os.environ.get("BMRS_DEBUG"):
            raise
        # names the process, under torchrun
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        who = f" (process {os.environ['RANK']} of {processes})" if processes > 1 else ""
        text = " ".join((told(error) if place else str(error)).split())
        if (behind := error.__cause__) and (line := line_at_fault(behind)) and line not in text:
            text = f"{line}: {text}"
        typer.echo(f"error{who}: {text}", err=True)
        sys.exit(2)


def _end_usage(error: Any) -> NoReturn:
    """Print a wrong use of the command in one line, or the help of a command without arguments."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        text = " ".join(error.format_message().split()).replace(": Value error, ", ": ")
        context = getattr(error, "ctx", None)
        help_ = f" (see {context.command_path} --help)" if context else ""
        typer.echo(f"error: {text}{help_}", err=True)
    sys.exit(error.exit_code)
