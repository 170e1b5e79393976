"""The configuration of an experiment's run directory, so that ``bmrs report`` and other commands can read it."""

from __future__ import annotations

__all__ = ["run_config"]

from importlib.metadata import version

from bmrs_pyro.data import Dataset, DataSource
from bmrs_pyro.runs import NetworkSource, RunConfig
from bmrs_pyro.training import Recipe


def run_config(
    source: NetworkSource, train: Dataset, recipe: Recipe, data_root: str, validation: float
) -> RunConfig:
    """Return the configuration of a run on named data."""
    return RunConfig(
        model=str(source.file),
        data=DataSource(train.name, data_root, size=source.input_size(), validation=validation),
        recipe=recipe,
        input_shape=train.input_shape,
        num_classes=train.num_classes,
        mean=train.mean,
        std=train.std,
        versions={"bmrs_pyro": version("bmrs-pyro")},
    )
