"""The data of a run."""

from __future__ import annotations

__all__ = ["run_data", "training_batches"]

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from bmrs_pyro import data
from bmrs_pyro.inference import RunDirectory


def run_data(run: RunDirectory) -> data.Splits:
    """Load the data of a run."""
    config = run.config
    return data.load(
        config.data,
        data_root=Path(config.data_root) if config.data_root else None,
        size=config.size,
        validation=config.validation,
        seed=config.seed,
    )


def training_batches(run: RunDirectory) -> Iterator[tuple[Tensor, Tensor]]:
    """Serve a run's training data as they are; they are loaded when the first batch is asked for."""
    yield from data.Batches(run_data(run).train, run.config.batch_size, shuffle=True)
