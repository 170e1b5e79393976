"""The configuration that an experiment's run directory is made with, so that ``bmrs report`` and others can read it."""

from __future__ import annotations

__all__ = ["run_config"]

from importlib.metadata import version
from typing import Any

from bmrs_pyro.data import Dataset
from bmrs_pyro.runs import NetworkSource, RunConfig


def run_config(source: NetworkSource, train: Dataset, **options: Any) -> RunConfig:
    """Return the configuration of a run on named data, one draw per example, pruning every epoch.

    Args:
        source: the network's file.
        train: the training part.
        **options: what else :class:`RunConfig` asks for.
    """
    return RunConfig(
        model=str(source.file),
        data=train.name,
        input_shape=train.input_shape,
        num_classes=train.num_classes,
        mean=train.mean,
        std=train.std,
        size=source.input_size(),
        prune_every=1,
        draws="example",
        versions={"bmrs_pyro": version("bmrs-pyro")},
        **options,
    )
