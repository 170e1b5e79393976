"""How a page writes numbers of several seeds."""

from __future__ import annotations

__all__ = ["spread"]

import statistics
from collections.abc import Iterable


def spread(values: Iterable[float]) -> str:
    """Return mean ± standard deviation to two digits, the mean alone where there is one value."""
    numbers = list(values)
    mean = f"{statistics.mean(numbers):.2f}"
    return f"{mean} ± {statistics.stdev(numbers):.2f}" if len(numbers) > 1 else mean
