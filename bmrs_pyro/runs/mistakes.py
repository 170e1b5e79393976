"""Whose mistake an error is: the user's, in the code of a network, or ours."""

from __future__ import annotations

__all__ = ["MARK", "line_at_fault", "told"]

import traceback

MARK = "__bmrs_source__"  # a variable that the modules of networks are known by


def line_at_fault(error: BaseException) -> str | None:
    """Return file and line of a network's code that an error comes from; None if it comes from elsewhere.

    What that code called, such as a layer of torch, is its doing; what this package does within it is not.
    """
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if MARK in frame.f_globals:
            place = f"{frame.f_code.co_filename}, line {line}"
        elif str(frame.f_globals.get("__name__")).partition(".")[0] == "bmrs_pyro":
            place = None
    return place


def told(error: BaseException) -> str:
    """Return an error in one line, with the line of the network's code that it comes from."""
    place = line_at_fault(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{place}: {text}" if place else text
