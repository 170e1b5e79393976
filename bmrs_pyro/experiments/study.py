"""A study: runs that differ in their configurations, and the page made of them."""

from __future__ import annotations

__all__ = ["Study", "grid"]

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from bmrs_pyro.experiments.spread import Rows
from bmrs_pyro.experiments.sweep import Config


@dataclass(frozen=True)
class Study:
    """The results of an experiment.

    Attributes:
        name: name of its files: ``NAME.json`` has one row per run, ``NAME.md`` is its page.
        keys: entries of a row that no other row shares.
        page: makes the page, in Markdown, from all rows.
        figures: makes the page's figures from all rows, by file name without ending.
        noun: what the rows are called in the JSON output.
    """

    name: str
    keys: Sequence[str]
    page: Callable[[Rows], str]
    figures: Callable[[Rows], Mapping[str, Figure]] = lambda rows: {}
    noun: str = "runs"


def grid(seeds: int, **choices: Sequence[Any]) -> list[Config]:
    """Return every combination of the choices, seeds outermost, so that every setting has its first run early."""
    return [
        {**dict(zip(choices, values, strict=True)), "seed": seed}
        for seed in range(seeds)
        for values in itertools.product(*choices.values())
    ]
