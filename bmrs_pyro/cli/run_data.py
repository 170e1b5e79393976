"""The data of a run."""

from __future__ import annotations

__all__ = ["run_data"]

from pathlib import Path

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
