"""Options that the ``bmrs reproduce`` commands share."""

from __future__ import annotations

__all__ = ["Seeds", "Workers", "chosen"]

from collections.abc import Collection, Iterable
from typing import Annotated

import typer

Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds (0, 1, ...) of each run.")]
Workers = Annotated[int, typer.Option(min=1, help="Number of runs in parallel.")]


def chosen(given: Iterable[str], known: Collection[str], what: str) -> list[str]:
    """Return the given names without duplicates: a repeated name does not make a second seed.

    Args:
        given: the names.
        known: the valid names.
        what: the kind of name, for the message.

    Raises:
        ValueError: a name is unknown.
    """
    names = list(dict.fromkeys(given))
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name!r} is unknown here; use one of {', '.join(known)}")
    return names
