"""``bmrs evaluate``: the small network on the test data."""

from __future__ import annotations

__all__ = ["evaluate"]

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bmrs_pyro import data
from bmrs_pyro.cli.fit import run_data
from bmrs_pyro.inference import RunDirectory
from bmrs_pyro.network import complexity
from bmrs_pyro.reporting import comparison_table
from bmrs_pyro.reporting import evaluate as evaluate_network


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory of bmrs fit.")],
) -> None:
    """Print test accuracy, log-likelihood, calibration and size of the small network beside the dense one's size."""
    directory = RunDirectory(run)
    test = run_data(directory).test
    small = directory.small()
    result = evaluate_network(small, data.Batches(test, 1000), test.num_classes)
    example = directory.example()
    sizes = {"dense": complexity(directory.dense(), example), "small": complexity(small, example)}
    columns = {
        name: {
            "test accuracy": f"{result.accuracy:.2%}" if name == "small" else "",
            "test NLL [nats]": f"{result.nll:.4f}" if name == "small" else "",
            "calibration error": f"{result.ece:.2%}" if name == "small" else "",
            "parameters": f"{size.parameters:,}",
            "MACs": f"{size.macs:,}",
        }
        for name, size in sizes.items()
    }
    Console().print(comparison_table(columns, title=f"{directory.path}: {len(test)} test examples"))
