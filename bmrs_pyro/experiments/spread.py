"""Tables of a page, and numbers of several seeds in them."""

from __future__ import annotations

__all__ = ["Row", "Rows", "grouped", "markdown_table", "spread", "table", "where"]

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

Row = Mapping[str, Any]
"""A run in a file of results: its configuration and its result."""
Rows = Sequence[Row]


def spread(values: Iterable[float], mean: str = ".2f", deviation: str = ".2f") -> str:
    """Return mean ± standard deviation in these formats, the mean alone where there is one value."""
    numbers = list(values)
    text = format(statistics.mean(numbers), mean)
    return f"{text} ± {statistics.stdev(numbers):{deviation}}" if len(numbers) > 1 else text


def table(rows: Rows, keys: Sequence[str], columns: Mapping[str, Callable[[Row], float | str | None]]) -> str:
    """Return a table in Markdown, a line for all seeds of one setting.

    Args:
        rows: the runs.
        keys: what tells runs apart, ``seed`` among them; the others come first in the table.
        columns: by title, what a run says: a number, None where it has none, or words, those of all seeds in a row.
    """
    settings = [key for key in keys if key != "seed"]
    head = f"| {' | '.join([*settings, 'seeds', *columns])} |".replace("_", " ")
    return markdown_table(
        head,
        (
            [
                *map(str, setting),
                str(len(group)),
                *(_cell([column(row) for row in group]) for column in columns.values()),
            ]
            for setting, group in grouped(sorted(rows, key=itemgetter("seed")), settings).items()
        ),
    )


def markdown_table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown, from its first line and the cells of the other lines."""
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)]) + "\n"


def where(rows: Iterable[Row], **values: Any) -> list[Row]:
    """Return the rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def grouped(rows: Iterable[Row], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows with the same values of some keys, by these values."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _cell(values: Sequence[float | str | None]) -> str:
    numbers = [value for value in values if isinstance(value, int | float)]
    return spread(numbers) if numbers else "; ".join(value for value in values if isinstance(value, str))
