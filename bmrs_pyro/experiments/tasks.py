"""Four tasks, each pruned by the default and to half of its multiply-accumulates."""

from __future__ import annotations

__all__ = ["TASKS", "Task", "run"]

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
from torch import nn

from bmrs_pyro.data import Batches, Dataset, Splits
from bmrs_pyro.experiments import task_data
from bmrs_pyro.inference import ScaledLikelihood
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.network import complexity
from bmrs_pyro.pruning import prune
from bmrs_pyro.runs import NetworkSource
from bmrs_pyro.training import ScoreMissed, Target, choose

TARGETS: Mapping[str, Mapping[str, Any]] = {"default": {}, "half of the MACs": {"max_macs": "50%"}}


class Task(NamedTuple):
    """A network, its data and how it is scored."""

    network: str
    """File of the network in ``models/``."""
    data: Callable[[], Splits[Dataset]]
    likelihood: str
    figure: str
    """The figure of the evaluation that the page shows."""
    better: str
    """Whether a higher or a lower one is better."""
    batch_size: int


TASKS: Mapping[str, Task] = {
    "diabetes": Task("mlp", task_data.diabetes, "normal", "rmse", "lower", 16),
    "digit maps": Task("unet", task_data.maps, "categorical", "mean_iou", "higher", 8),
    "docstrings": Task("text_classifier", task_data.texts, "categorical", "accuracy", "higher", 16),
    "documentation": Task("next_token", task_data.characters, "next-token", "perplexity", "lower", 16),
}


def run(config: Mapping[str, Any], *, models: str) -> dict[str, Any]:
    """Prune one task by each target, along one path.

    Args:
        config: ``task``, ``epochs``, ``dense_epochs`` and ``seed``.
        models: folder of the networks' files.

    Returns:
        parameters, MACs and the task's figure on test data, of the dense network and of each small one.
    """
    task, start = TASKS[config["task"]], time.perf_counter()
    splits = task.data()
    pyro.set_rng_seed(config["seed"])
    dense = NetworkSource(f"{models}/{task.network}.py").build(
        splits.train.input_shape, splits.train.num_classes
    )
    train = Batches(splits.train, task.batch_size, seed=config["seed"])
    held_out, test = (Batches(part, 200, shuffle=False) for part in splits[1:])
    likelihood = _likelihood(task, splits.train)
    schedule = {name: config[name] for name in ("epochs", "dense_epochs", "seed")}

    def figures(net: nn.Module) -> dict[str, float]:
        cost = complexity(net, splits.train.example)
        scored_by = task.likelihood if isinstance(likelihood, str) else likelihood
        quality = getattr(evaluate(net, test, likelihood=scored_by), task.figure)
        return {"parameters": cost.parameters, "macs": cost.macs, task.figure: quality}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScoreMissed)  # the page says which were met
        found = prune(dense, train, validation=held_out, likelihood=likelihood, progress=False, **schedule)
        chosen = {name: choose(found.path, Target(**target)) for name, target in TARGETS.items()}
    return {
        "dense": figures(found.path.network(found.path.dense)),
        **{
            name: {**figures(choice.refit.history.network), "met": choice.met}
            for name, choice in chosen.items()
        },
        "seconds": time.perf_counter() - start,
    }


def _likelihood(task: Task, train: Dataset) -> str | Likelihood:
    if task.likelihood == "normal":
        values = train.labels
        return ScaledLikelihood("normal", centre=(float(values.mean()),), unit=(float(values.std()),))
    return task.likelihood if task.likelihood == "next-token" else f"{task.likelihood}:0.02"
