"""The benchmark's page: the targets, then every number."""

from __future__ import annotations

__all__ = ["page", "targets", "targets_table"]

from collections.abc import Mapping
from typing import Any

from bmrs_pyro.experiments.spread import Rows, markdown_table

_HEAD = """# Benchmark

Made by `bmrs bench --out docs/results/bench.json`; [bench.json](bench.json) has one object per section. Times are
in seconds. Times of steps and of inference are medians of alternating repeats, times of decisions are medians of
repeats. Whole runs, finding structures and cutting them were timed once, one after the other. A step's ratio is its
time over that of the same network's plain step. Slopes are of log time against log size.
"""

_STEPS = {
    "MLP, MNIST, batch 128": (1.50, 1.30),
    "LeNet5, MNIST, batch 64": (1.35, 1.15),
    "LeNet5, CIFAR-10, batch 64": (1.15, 1.15),
    "ResNet-18, 64 px, batch 64": (1.10, 1.15),
    "ResNet-18, 32 px, batch 64": (1.15, 1.15),
}
"""Bounds of a step's time and memory, relative to the plain step's."""
_STOCK = {"LeNet5, MNIST, batch 64": 1.7, "LeNet5, CIFAR-10, batch 64": 1.4, "MLP, MNIST, batch 128": 2.2}
"""Bounds of a step's time by Pyro's own objective and optimiser."""


def page(rows: Rows) -> str:
    """Return the page in Markdown."""
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
    rows = (
        (what, f"{bound:.2f}", f"{value:.2f}", "met" if met else "**missed**")
        for what, bound, value, met in targets(record)
    )
    return markdown_table("| what | bound | measured | |", rows)


def targets(record: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float, float, bool]]:
    """Return the targets beside the measured values: name, bound, value, and whether the bound holds."""
    rows: list[tuple[str, float, float, bool]] = []

    def at_most(name: str, bound: float, *place: str) -> None:
        value: Any = record
        for key in place:
            value = value.get(key, {})
        if value != {}:  # else it was not measured
            rows.append((name, bound, value, value <= bound))

    for key, (bound, memory) in _STEPS.items():
        at_most(f"step ratio, {key}", bound, "steps", key, "ratio")
        at_most(f"memory ratio, {key}", memory, "steps", key, "memory_ratio")
    for key, bound in _STOCK.items():
        at_most(f"step ratio by TraceMeanField_ELBO, {key}", bound, "stock", key, "packaged_ratio")
    at_most("bmrs --help / import torch", 0.25, "start", "bmrs --help", "per_import_torch")
    at_most("import bmrs_pyro / import pyro", 1.1, "start", "import bmrs_pyro / import pyro")
    first = "bmrs fit, first step"
    at_most("bmrs fit to its first step / import torch", 2.0, "start", first, "per_import_torch")
    for name in record.get("path", {}):
        at_most(f"path / one run, {name}", 1.3, "path", name, "path_ratio")
        at_most(f"refit / one run, {name}", 0.4, "path", name, "refit_ratio")
    for name in record.get("run", {}):
        at_most(f"pruned run / unpruned run, {name}", 0.6, "run", name, "ratio")
    for name in record.get("decisions", {}):
        at_most(f"ΔF of a million structures, {name} [s]", 0.3, "decisions", name)
    for name, row in record.get("inference", {}).items():
        if name.endswith("128"):
            share = row["speed_up"] / row["macs_ratio"]
            rows.append((f"speed-up / MAC reduction, {name}, at least", 0.6, share, share >= 0.6))
    return rows


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name.replace('_', ' ')} {_cell(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:.4g}"
