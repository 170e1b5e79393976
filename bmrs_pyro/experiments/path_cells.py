"""One run of the path experiment: a network, a data set, a seed, no other option; three networks chosen from it."""

from __future__ import annotations

__all__ = ["RULES", "rows", "run"]

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pyro
import torch
from torch import nn

from bmrs_pyro import data
from bmrs_pyro.experiments.small_runs import source_of
from bmrs_pyro.experiments.sweep import Config
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.pruning import Pruned, prune
from bmrs_pyro.training import Path, PathPoint

RULES: Mapping[str, Mapping[str, Any]] = {
    "one-standard-error": {},
    "max-loss": {"max_loss": 0.5},
    "max-macs": {"max_macs": "50%"},
}
"""The targets, by the name of the rule."""


def run(config: Config, *, data_root: str) -> dict[str, Any]:
    """Fit one path and choose from it by each rule; test data are read once for each network chosen.

    Args:
        config: ``network``, ``dataset``, ``seed``.
        data_root: folder of the data sets.
    """
    seed = config["seed"]
    source = source_of(config["network"])
    splits = data.load(config["dataset"], data_root=data_root, size=source.input_size(), seed=seed)
    pyro.set_rng_seed(seed)
    net = source.build(splits.train.input_shape, splits.train.num_classes)
    train = data.Batches(splits.train, 128, shuffle=True, seed=seed)
    validation = data.Batches(splits.validation, 1000)

    def accuracy(small: nn.Module) -> float:
        test = data.Batches(splits.test, 1000)
        return 100 * evaluate(small, test, splits.test.num_classes).accuracy

    start = time.perf_counter()
    chosen: dict[str, Pruned] = {}
    seconds = {}
    for rule, target in RULES.items():
        earlier = next(iter(chosen.values()), None)
        if earlier is None:
            pruned = prune(net, train, validation=validation, seed=seed, channels_last=True, **target)
        else:
            pruned = earlier.choose(**target)
        chosen[rule] = pruned
        seconds[rule] = time.perf_counter() - start
        start = time.perf_counter()
    path = next(iter(chosen.values())).path
    return {
        "dense_accuracy": accuracy(path.network(path.dense)),
        "path": [_point(point) for point in (path.dense, *path.points)],
        "chosen": [
            {
                "rule": rule,
                "target": "".join(f"{name}={value}" for name, value in RULES[rule].items()),
                "accuracy": accuracy(pruned.network),
                "met": pruned.met,
                "refits": len(pruned.notes) + 1,
                "seconds": seconds[rule],
                **_costs(pruned.point, path),
            }
            for rule, pruned in chosen.items()
        ],
        "threads": torch.get_num_threads(),
        "version": version("bmrs-pyro"),
    }


def rows(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each network that a run has chosen, from its configuration and result."""
    cell = {key: made[key] for key in ("network", "dataset", "seed")}
    shared = {key: made[key] for key in ("dense_accuracy", "threads", "version")}
    return [{**cell, **chosen, **shared} for chosen in made["chosen"]]


def _costs(point: PathPoint, path: Path) -> dict[str, Any]:
    return {
        "compression": 100 * (1 - point.parameters / path.dense.parameters),
        "parameters": point.parameters,
        "macs_ratio": 100 * point.macs / path.dense.macs,
        "validation_accuracy": _percent(point.score.accuracy),
        "kl_weight": point.kl_weight,
        "epoch": point.epoch,
        "structures": dict(point.structures),
    }


def _point(point: PathPoint) -> dict[str, Any]:
    return {
        "epoch": point.epoch,
        "kl_weight": point.kl_weight,
        "parameters": point.parameters,
        "macs": point.macs,
        "validation_accuracy": _percent(point.score.accuracy),
        "standard_error": _percent(point.score.accuracy_error),
        "log_likelihood": point.score.log_likelihood,
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
