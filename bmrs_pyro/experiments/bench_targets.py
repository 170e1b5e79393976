"""The targets of the benchmarks."""

from __future__ import annotations

__all__ = ["targets"]

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


def targets(record: Mapping[str, Record]) -> list[tuple[str, float, float, bool]]:
    """Return the targets beside the measured values: name, bound, value, and whether the bound holds."""
    rows: list[tuple[str, float, float, bool]] = []

    def at_most(name: str, bound: float, value: float) -> None:
        rows.append((name, bound, value, value <= bound))

    bounds = {
        "LeNet5, MNIST": 1.30,
        "LeNet5, CIFAR-10": 1.20,
        "ResNet-18, 64 px": 1.10,
        "ResNet-18, 32 px": 1.15,
    }
    for name, bound in bounds.items():
        key = f"{name}, batch 64"
        if key in record.get("steps", {}):
            at_most(f"step ratio, {key}", bound, record["steps"][key]["ratio"])
            at_most(f"memory ratio, {key}", 1.15, record["steps"][key]["memory_ratio"])
    for name, row in record.get("run", {}).items():
        at_most(f"pruned run / unpruned run, {name}", 0.6, row["ratio"])
    for name, seconds in record.get("decisions", {}).items():
        at_most(f"ΔF of a million structures, {name} [s]", 0.3, seconds)
    for name, row in record.get("inference", {}).items():
        if name.endswith("128"):
            share = row["speed_up"] / row["macs_ratio"]
            rows.append((f"speed-up / MAC reduction, {name}, at least", 0.6, share, share >= 0.6))
    return rows
