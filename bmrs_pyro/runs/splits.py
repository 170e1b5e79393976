"""The data of a run."""

from __future__ import annotations

__all__ = ["load_splits", "run_data", "training_batches"]

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from bmrs_pyro import data
from bmrs_pyro.runs.config import RunConfig
from bmrs_pyro.runs.errors import RunError
from bmrs_pyro.runs.run_directory import RunDirectory


def load_splits(source: data.DataSource, seed: int) -> data.Splits:
    """Load a data set, split by a seed."""
    return data.load(
        source.data,
        data_root=source.data_root,
        download=source.download,
        size=source.size,
        validation=source.validation,
        seed=seed,
    )


def run_data(run: RunDirectory) -> data.Splits:
    """Load the data of a run.

    Raises:
        DataError: they cannot be used any more.
        RunError: they are not those that the run was made with.
    """
    config = run.config
    splits = load_splits(replace(config.data, download=False), config.recipe.seed or 0)
    if change := _change(splits.train, config):
        raise RunError(
            f"{config.data.data} holds other data than {run.path} was made with: {change}; "
            "put those back, or fit these into a directory of their own"
        )
    return splits


def training_batches(run: RunDirectory) -> Iterator[tuple[Tensor, Tensor]]:
    """Serve a run's training data as they are; they are loaded when the first batch is asked for."""
    yield from data.Batches(run_data(run).train, run.config.recipe.batch_size)


def _change(train: data.Dataset, config: RunConfig) -> str | None:
    """Say in what the training part differs from the one a configuration was made for; None if in nothing."""
    if train.input_shape != config.input_shape:
        return f"examples have shape {train.input_shape}, not {config.input_shape}"
    if train.num_classes != config.num_classes:
        return f"there are {train.num_classes} classes, not {config.num_classes}"
    for what in ("mean", "std"):
        values = zip(getattr(train, what), getattr(config, what), config.std, strict=True)
        for channel, (now, then, std) in enumerate(values):
            # sums depend a little on the number of threads
            if not math.isclose(now, then, rel_tol=1e-9, abs_tol=1e-6 * std):
                return f"the {what} of channel {channel} is {now:.8g}, not {then:.8g}"
    return None
