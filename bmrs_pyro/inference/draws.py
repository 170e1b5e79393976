"""How many draws of the gains a batch gets."""

from __future__ import annotations

__all__ = ["Draws", "draws_of", "parse_draws"]

from typing import Literal

Draws = Literal["auto", "example", "batch"] | int

SHARED = 16
"""Draws of a batch where ``"auto"`` shares them: their gradients' variance is measured in docs/theory.md."""
FEW_READ = 4
"""``"auto"`` shares draws where layers read fewer numbers than this per gain and example."""


def parse_draws(value: object) -> Draws:
    """Read ``"auto"``, ``"example"``, ``"batch"`` or a positive number, also one in letters; 1 is ``"batch"``.

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


def draws_of(examples: int, draws: Draws) -> int:
    """Return the number of draws that a batch's examples share equally: at least ``draws``, a divisor of the examples.

    Args:
        examples: of the batch.
        draws: ``"batch"``, a number, or ``"example"``, which ``"auto"`` is as long as it is not decided.
    """
    if draws == "batch":
        return 1
    wanted = examples if isinstance(draws, str) else min(draws, examples)
    return next(count for count in range(wanted, examples + 1) if examples % count == 0)
