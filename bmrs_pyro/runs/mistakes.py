"""Whether an error comes from the user's network code or from this package."""

from __future__ import annotations

__all__ = ["MARK", "line_at_fault", "told"]

import traceback

MARK = "__bmrs_source__"  # a variable that marks the modules of users' networks


def line_at_fault(error: BaseException) -> str | None:
    """Return file and line of the network's code that raised an error; None if the error comes from elsewhere.

    An error in a function that the code called, such as a torch layer, counts as the code's own. An error in a
    function of this package does not.
    """
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if MARK in frame.f_globals:
            place = f"{frame.f_code.co_filename}, line {line}"
        elif str(frame.f_globals.get("__name__")).partition(".")[0] == "bmrs_pyro":
            place = None
    return place


def told(error: BaseException) -> str:
    """Return an error's message in one line, with the line of the network's code that raised it."""
    place = line_at_fault(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{place}: {text}" if place else text
