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
        "MLP, MNIST, batch 128": (1.50, 1.30),
        "LeNet5, MNIST, batch 64": (1.35, 1.15),
        "LeNet5, CIFAR-10, batch 64": (1.15, 1.15),
        "ResNet-18, 64 px, batch 64": (1.10, 1.15),
        "ResNet-18, 32 px, batch 64": (1.15, 1.15),
    }
    for key, (bound, memory) in bounds.items():
        if key in record.get("steps", {}):
            at_most(f"step ratio, {key}", bound, record["steps"][key]["ratio"])
            at_most(f"memory ratio, {key}", memory, record["steps"][key]["memory_ratio"])
    stock = {
        "LeNet5, MNIST, batch 64": 1.7,
        "LeNet5, CIFAR-10, batch 64": 1.4,
        "MLP, MNIST, batch 128": 2.2,
    }
    for key, bound in stock.items():
        if key in record.get("stock", {}):
            at_most(
                f"step ratio by TraceMeanField_ELBO, {key}", bound, record["stock"][key]["packaged_ratio"]
            )
    if started := record.get("start"):
        at_most("bmrs --help / import torch", 0.25, started["bmrs --help"]["per_import_torch"])
        at_most("import bmrs_pyro / import pyro", 1.1, started["import bmrs_pyro / import pyro"])
        at_most(
            "bmrs fit to its first step / import torch",
            2.0,
            started["bmrs fit, first step"]["per_import_torch"],
        )
    for name, row in record.get("path", {}).items():
        at_most(f"path / one run, {name}", 1.3, row["path_ratio"])
        at_most(f"refit / one run, {name}", 0.4, row["refit_ratio"])
    for name, row in record.get("run", {}).items():
        at_most(f"pruned run / unpruned run, {name}", 0.6, row["ratio"])
    for name, seconds in record.get("decisions", {}).items():
        at_most(f"ΔF of a million structures, {name} [s]", 0.3, seconds)
    for name, row in record.get("inference", {}).items():
        if name.endswith("128"):
            share = row["speed_up"] / row["macs_ratio"]
            rows.append((f"speed-up / MAC reduction, {name}, at least", 0.6, share, share >= 0.6))
    return rows
