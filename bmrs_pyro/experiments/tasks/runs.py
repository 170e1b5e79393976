"""Tasks that no recipe was tuned on, each pruned by the default and to half of its multiply-accumulates."""

from __future__ import annotations

__all__ = ["STUDY", "TASKS", "Task", "page", "run"]

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
from torch import nn

from bmrs_pyro.data import Batches, Dataset, Splits
from bmrs_pyro.experiments.small_runs import source_of
from bmrs_pyro.experiments.spread import Rows, markdown_table, where
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.tasks import datasets
from bmrs_pyro.inference import ScaledLikelihood
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.network import complexity
from bmrs_pyro.path import ScoreMissed, Target, choose
from bmrs_pyro.pruning import prune

TARGETS: Mapping[str, Mapping[str, Any]] = {"default": {}, "half of the MACs": {"max_macs": "50%"}}


class Task(NamedTuple):
    """A network, its data and how it is scored."""

    network: str | Callable[[tuple[int, ...], int], nn.Module]
    """File of the network in ``models/``, or a function of the shape of an example and the number of outputs."""
    data: Callable[[], Splits[Dataset]]
    likelihood: str
    figure: str
    """The figure of the evaluation that the page shows."""
    better: str
    """Whether a higher or a lower one is better."""
    batch_size: int


def _forecaster(input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    channels, length = input_shape
    return nn.Sequential(
        nn.Conv1d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.Conv1d(32, 32, 5, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * length, 32),
        nn.ReLU(),
        nn.Linear(32, num_outputs),
    )


TASKS: Mapping[str, Task] = {
    "breast cancer": Task("mlp", datasets.breast_cancer, "categorical", "accuracy", "higher", 16),
    "wine": Task("mlp", datasets.wine, "categorical", "accuracy", "higher", 16),
    "diabetes": Task("mlp", datasets.diabetes, "normal", "rmse", "lower", 16),
    "membrane": Task(_forecaster, datasets.membrane, "normal", "rmse", "lower", 16),
    "digit maps": Task("unet", datasets.maps, "categorical", "mean_iou", "higher", 8),
    "docstrings": Task("text_classifier", datasets.texts, "categorical", "accuracy", "higher", 16),
    "documentation": Task("next_token", datasets.characters, "next-token", "perplexity", "lower", 16),
}


def run(config: Mapping[str, Any]) -> dict[str, Any]:
    """Prune one task by each target, along one path.

    Args:
        config: ``task``, ``epochs``, ``dense_epochs`` and ``seed``.

    Returns:
        parameters, MACs and the task's figure on test data, of the dense network and of each small one.
    """
    task, start = TASKS[config["task"]], time.perf_counter()
    splits = task.data()
    pyro.set_rng_seed(config["seed"])
    build = task.network
    if isinstance(build, str):
        build = source_of(build).build
    dense = build(splits.train.input_shape, splits.train.num_classes)
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


def page(rows: Rows) -> str:
    """Return the page in Markdown; seeds of one task are averaged."""
    lines = []
    for name, task in TASKS.items():
        mine = where(rows, task=name)
        for kind in ("dense", *TARGETS) if mine else ():
            found = [row[kind] for row in mine]
            missed = sum(not one.get("met", True) for one in found)
            lines.append(
                [
                    name if kind == "dense" else "",
                    f"{task.figure.replace('_', ' ')}, {task.better} is better" if kind == "dense" else "",
                    kind,
                    f"{statistics.mean(one[task.figure] for one in found):.4g}",
                    *(
                        _with_share(found, [row["dense"] for row in mine], cost)
                        for cost in ("parameters", "macs")
                    ),
                    f"misses the validation score in {missed} of {len(found)}" if missed else "",
                ]
            )
    table = markdown_table("| task | score | network | test score | parameters | MACs | |", lines)
    return f"{_HEAD}\n{table}"


def _with_share(found: Rows, dense: Rows, cost: str) -> str:
    own, whole = (statistics.mean(one[cost] for one in rows) for rows in (found, dense))
    return f"{own:,.0f}" + (f" ({own / whole:.0%})" if own < whole else "")


_HEAD = """# Tasks that no recipe was tuned on

Made by `bmrs reproduce tasks --out docs/results`; [tasks.json](tasks.json) has one object per run. All data are made of
what installed packages bring, so nothing is downloaded, and other versions of them give other texts:

- *breast cancer*, *wine*, *diabetes*: scikit-learn's tables of 569 tumours, 178 wines and 442 patients, an MLP;
  accuracy, of diabetes the root mean square error in the target's units;
- *membrane*: a current of matplotlib's sample data, the next value from the 16 before it, a convolutional network;
  root mean square error in standard deviations;
- *digit maps*: scikit-learn's digits on a noisy ground, a class per pixel, a small U-Net; mean intersection over union;
- *docstrings*: which of six packages a docstring documents, its first 32 words without the packages' own names, a small
  BERT-like classifier; accuracy;
- *documentation*: the next of 97 characters of the standard library's documentation, a small GPT-like model;
  perplexity.

No recipe was tuned on these tasks, but two of them showed how to find the path's first KL weight (see below). Each
network is trained dense, then along a path (`bmrs_pyro.prune`) with the default options. One small network is the
default's, the smallest within one standard error of the best validation score; the other has at most half of the
multiply-accumulates. Scores are of test data that nothing was chosen on.
"""

STUDY = Study("tasks", ("task", "epochs", "dense_epochs", "seed"), page)
