"""The benchmark's page: the targets, then every number."""

from __future__ import annotations

__all__ = ["page", "targets_table"]

from collections.abc import Mapping, Sequence
from typing import Any

from bmrs_pyro.experiments.bench_targets import targets
from bmrs_pyro.experiments.spread import markdown_table

_HEAD = """# Benchmark

Made by `bmrs bench --out docs/results/bench.json`; [bench.json](bench.json) has one object per section. Times are
in seconds. Times of steps and of inference are medians of alternating repeats, times of decisions are medians of
repeats. Whole runs, finding structures and cutting them were timed once, one after the other. A step's ratio is its
time over that of the same network's plain step. Slopes are of log time against log size.
"""


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page in Markdown.

    Args:
        rows: ``section``, ``environment`` and ``results`` of each section.
    """
    parts = [_HEAD, "## Targets\n", targets_table({row["section"]: row["results"] for row in rows})]
    for row in rows:
        made = ", ".join(
            f"{key} {value}" for key, value in row["environment"].items() if value and key != "command"
        )
        parts += [
            f"\n## {row['section'].capitalize()}\n",
            f"`{row['environment']['command']}`; {made}\n",
            markdown_table("| | |", ((name, _cell(value)) for name, value in row["results"].items())),
        ]
    return "\n".join(parts)


def targets_table(record: Mapping[str, dict[str, Any]]) -> str:
    """Return the targets beside the measured values, as a table in Markdown."""
    rows = [
        (what, f"{bound:.2f}", f"{value:.2f}", "met" if met else "**missed**")
        for what, bound, value, met in targets(record)
    ]
    return markdown_table("| what | bound | measured | |", rows)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name.replace('_', ' ')} {_cell(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:.4g}"
