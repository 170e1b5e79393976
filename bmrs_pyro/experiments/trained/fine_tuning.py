"""Train the small network of a run further: ``python -m bmrs_pyro.experiments.trained.fine_tuning --help``.

Its weights contain the gains, and nothing in it is random, so it is trained like any network.
"""

from __future__ import annotations

__all__ = ["main"]

from pathlib import Path
from typing import Annotated

import torch
import typer

from bmrs_pyro.experiments.small_runs import evaluated
from bmrs_pyro.experiments.trained.pretraining import Stage, pretrain, run_command
from bmrs_pyro.runs import RunDirectory, run_data
from bmrs_pyro.training.allocator import keep_freed_memory


def main(
    run: Annotated[Path, typer.Argument(help="Run directory of bmrs fit; its small network is replaced.")],
    stages: Annotated[str, typer.Option(help="Epochs x pixels, in order.")] = "1x16,1x32",
    peak_rate: Annotated[float, typer.Option(help="Largest learning rate of the cycle.")] = 0.02,
) -> None:
    """Train a run's small network without gains, and save the result in the run."""
    keep_freed_memory()
    schedule = Stage.parse(stages)
    directory = RunDirectory(run)
    config = directory.config
    splits = run_data(directory)
    torch.manual_seed(config.recipe.seed or 0)
    log = run / "fine_tuning.jsonl"
    with directory.locked():
        small = pretrain(directory.small(), splits, schedule, log, peak_rate)
        directory.save_decision(
            directory.decision(), small, evaluated(small, splits.validation, 500).accuracy
        )


if __name__ == "__main__":
    run_command(main)
