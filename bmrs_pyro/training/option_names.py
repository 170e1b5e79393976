"""The names of a function's options, and what an unknown one may have meant."""

from __future__ import annotations

__all__ = ["refuse_unknown"]

from collections.abc import Iterable
from difflib import get_close_matches


def refuse_unknown(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise TypeError for an option that is not known; the message names the nearest one, and all."""
    names = sorted(known)
    for option in sorted(set(given) - set(names)):
        near = get_close_matches(option, names, 1)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise TypeError(f"unknown option {option}{meant} {what} takes {', '.join(names)}")
