"""The number of draws of the gains per batch."""

from __future__ import annotations

__all__ = ["Draws", "draws_of", "parse_draws", "refuse_no_draws"]

from numbers import Integral
from typing import Literal

Draws = Literal["auto", "example", "batch"] | int

SHARED = 16
"""Draws that a batch shares under ``"auto"``; docs/theory.md measures the variance of their gradients."""
FEW_READ = 4
"""``"auto"`` shares draws if the layers read fewer numbers per gain and example than this."""


def parse_draws(value: object) -> Draws:
    """Read ``"auto"``, ``"example"``, ``"batch"`` or a positive number, which may be a string; 1 means ``"batch"``.

    Raises:
        ValueError: the value is none of these.
    """
    if value in ("auto", "example", "batch"):
        return value
    try:
        number = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else 0
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"draws is {value!r}; use 'auto', 'example', 'batch' or a number of draws per batch")
    return "batch" if number == 1 else number


def refuse_no_draws(draws: object) -> None:
    """Raise an error unless a number of draws is a whole number of at least 1.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is less than 1.
    """
    if not isinstance(draws, Integral) or isinstance(draws, bool):
        raise TypeError(f"draws is {draws!r}; give a whole number of at least 1")
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")


def draws_of(examples: int, draws: Draws) -> int:
    """Return the number of draws for a batch: at least ``draws``, and a divisor of the number of examples.

    Args:
        examples: number of examples in the batch.
        draws: ``"batch"``, a number, or ``"example"``; ``"auto"`` counts as ``"example"`` until it is decided.
    """
    if draws == "batch":
        return 1
    wanted = examples if isinstance(draws, str) else min(draws, examples)
    return next(count for count in range(wanted, examples + 1) if examples % count == 0)
