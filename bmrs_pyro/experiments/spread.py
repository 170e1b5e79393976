"""How a page writes numbers of several seeds."""

from __future__ import annotations

__all__ = ["spread", "table"]

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def spread(values: Iterable[float]) -> str:
    """Return mean ± standard deviation to two digits, the mean alone where there is one value."""
    numbers = list(values)
    mean = f"{statistics.mean(numbers):.2f}"
    return f"{mean} ± {statistics.stdev(numbers):.2f}" if len(numbers) > 1 else mean


def table(
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    columns: Mapping[str, Callable[[Mapping[str, Any]], float | str | None]],
) -> str:
    """Return a table in Markdown, a line for all seeds of one setting.

    Args:
        rows: the runs.
        keys: what tells runs apart, ``seed`` among them; the others come first in the table.
        columns: by title, what a run says: a number, None where it has none, or words, those of all seeds in a row.
    """
    settings = [key for key in keys if key != "seed"]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        groups.setdefault(tuple(str(row[key]) for key in settings), []).append(row)
    lines = ["| " + " | ".join([*settings, "seeds", *columns]).replace("_", " ") + " |"]
    lines.append("|---" * (len(settings) + 1 + len(columns)) + "|")
    for setting, group in groups.items():
        cells = (_cell([column(row) for row in group]) for column in columns.values())
        lines.append("| " + " | ".join([*setting, str(len(group)), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | str | None]) -> str:
    numbers = [value for value in values if isinstance(value, int | float)]
    return spread(numbers) if numbers else "; ".join(value for value in values if isinstance(value, str))
