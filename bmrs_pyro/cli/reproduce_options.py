"""What the commands that repeat experiments have in common: options, and names to choose from."""

from __future__ import annotations

__all__ = ["Seeds", "Workers", "chosen"]

from collections.abc import Collection, Iterable
from typing import Annotated

import typer

Seeds = Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... of each.")]
Workers = Annotated[int, typer.Option(min=1, help="Runs at a time.")]


def chosen(given: Iterable[str], known: Collection[str], what: str) -> list[str]:
    """Return the names given, each once: a run that is asked for twice is no second seed.

    Args:
        given: the names.
        known: those there are.
        what: what they name, for the message.

    Raises:
        ValueError: one is unknown.
    """
    names = list(dict.fromkeys(given))
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name!r} is unknown here; use one of {', '.join(known)}")
    return names
