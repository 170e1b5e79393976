"""Checks of a user's options: their names, and the types and ranges of their values."""

from __future__ import annotations

__all__ = ["refuse_no_callbacks", "refuse_no_flags", "refuse_no_number", "refuse_no_seed", "refuse_unknown"]

import math
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from numbers import Integral


def refuse_unknown(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise TypeError for an option that is not known; the message names the nearest one, and all."""
    names = sorted(known)
    for option in sorted(set(given) - set(names)):
        near = get_close_matches(option, names, 1)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise TypeError(f"unknown option {option}{meant} {what} takes {', '.join(names)}")


def refuse_no_number(
    name: str, value: object, *, least: float = -math.inf, whole: bool = False, optional: bool = False
) -> None:
    """Raise an error if an option is no finite number, or too small.

    Args:
        name: the option's name.
        value: its value.
        least: the smallest legal number.
        whole: whether it must be a whole number.
        optional: whether None is legal, too.

    Raises:
        TypeError: it is no number, or no whole one.
        ValueError: it is less than the smallest legal number, infinite or NaN.
    """
    if optional and value is None:
        return
    if isinstance(value, bool) or not (isinstance(value, Integral) if whole else hasattr(value, "__float__")):
        raise TypeError(f"{name} is {value!r}; give a {'whole ' if whole else ''}number")
    if not least <= float(value) < math.inf:  # type: ignore[arg-type]  # it has __float__
        limits = ([] if whole else ["finite"]) + ([] if least == -math.inf else [f"at least {least}"])
        raise ValueError(f"{name} is {value}; it must be {' and '.join(limits)}")


def refuse_no_seed(seed: object) -> None:
    """Raise an error if a value is neither None nor a seed of all random generators, from 0 to 2³² − 1.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is out of range.
    """
    refuse_no_number("seed", seed, whole=True, optional=True)
    if isinstance(seed, Integral) and not 0 <= int(seed) < 2**32:
        raise ValueError(f"seed is {seed}; it must not be negative, nor 2**32 or more")


def refuse_no_flags(options: object, names: Iterable[str]) -> None:
    """Raise TypeError if options with these names are neither True nor False."""
    for name in names:
        if not isinstance(value := getattr(options, name), bool):
            raise TypeError(f"{name} is {value!r}; give True or False")


def refuse_no_callbacks(callbacks: object) -> None:
    """Raise TypeError if callbacks are not functions in a list or the like."""
    if not isinstance(callbacks, Collection) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks is {callbacks!r}; give a list of functions, such as callbacks=[print]")
