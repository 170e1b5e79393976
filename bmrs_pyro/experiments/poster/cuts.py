"""The poster's networks cut by torch-pruning to our compression, in as many epochs."""

from __future__ import annotations

__all__ = ["CONTENDERS", "ours", "rows", "run", "study_of"]

import copy
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pyro
import torch
from torch import nn

from bmrs_pyro import data
from bmrs_pyro.experiments.poster.runs import PROTOCOLS
from bmrs_pyro.experiments.small_runs import evaluated, source_of
from bmrs_pyro.experiments.spread import Row, Rows, grouped, markdown_table, spread, where
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.sweep import Config
from bmrs_pyro.experiments.torch_pruning_cuts import BudgetMissed, trained_on
from bmrs_pyro.inference import SmoothedLikelihood
from bmrs_pyro.network import complexity
from bmrs_pyro.training import Cycle, PlainSteps

CONTENDERS = ("magnitude", "magnitude-local", "taylor", "magnitude-iterative", "taylor-iterative")


def run(config: Config, *, data_root: str) -> dict[str, Any]:
    """Train a network, then cut it in several ways and train it on; test data are read once for each.

    Args:
        config: ``network``, ``dataset``, ``seed``, and ``compression``: percent of the parameters to remove at least.
        data_root: folder of the data sets.
    """
    seed, protocol, source = config["seed"], PROTOCOLS["ours"], source_of(config["network"])
    recipe, smoothing = protocol.recipe, protocol.label_smoothing[config["network"]]
    splits = data.load(config["dataset"], data_root=data_root, size=source.input_size(), seed=seed)
    pyro.set_rng_seed(seed)
    net = source.build(splits.train.input_shape, splits.train.num_classes)
    example = torch.zeros(1, *splits.train.input_shape)
    train, still = (data.Batches(splits.train, recipe.batch_size, seed=seed) for _ in range(2))
    net.to(memory_format=torch.channels_last)

    def begin(net: nn.Module, epochs: int = recipe.fine_tune_epochs) -> PlainSteps:
        cycle = Cycle(optimizer="adamw", lr=recipe.lr)
        return PlainSteps(net, SmoothedLikelihood(smoothing), train, epochs * len(train), cycle)

    dense = begin(net, recipe.epochs)
    dense.make(dense.total)
    whole, cut = complexity(net, example).parameters, []
    for contender in CONTENDERS:
        start, budget = time.perf_counter(), whole * (1 - config["compression"] / 100)
        try:
            small = trained_on(
                copy.deepcopy(net), example, contender, budget, still, begin, cost="parameters"
            )
        except BudgetMissed:
            continue
        left = complexity(small, example).parameters
        seconds = time.perf_counter() - start
        cut.append(
            {
                "contender": contender,
                "accuracy": 100 * evaluated(small, splits.test).accuracy,
                "reached": 100 * (1 - left / whole),
                "seconds": seconds,
            }
        )
    return {
        "dense_accuracy": 100 * evaluated(net, splits.test).accuracy,
        "cut": cut,
        "threads": torch.get_num_threads(),
        "version": version("bmrs-pyro"),
    }


def rows(made: Row) -> list[dict[str, Any]]:
    """Return a row for each contender of a run, from its configuration and result."""
    shared = {key: value for key, value in made.items() if key != "cut"}
    return [{**shared, **one} for one in made["cut"]]


def ours(poster: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the poster's runs of BMRS_N, by network and data set, at the KL weight that has the most seeds."""
    mine = where(poster, method="bmrs-n", protocol="ours")
    cells: dict[tuple[str, str], list[Row]] = {}
    for (network, dataset, _), runs in grouped(mine, ("network", "dataset", "kl_weight")).items():
        cells[network, dataset] = max(cells.get((network, dataset), []), runs, key=len)
    return cells


_HEAD = """# The poster's networks, cut by torch-pruning

Made by `bmrs reproduce torch-pruning --data-root DATA --seeds 3 --out docs/results`, with `pip install
'bmrs-pyro[compare]'`. Every run is cached. [torch-pruning.json](torch-pruning.json) has one object for each run and
contender; our own runs are those of [the poster's page](poster.md).

All have the same data, batches of 128, label smoothing, largest learning rate and epochs. We train weights and gains
together for 20 epochs with pruning and 12 without, and keep the epoch of the best validation accuracy (BMRS_N, the KL
weight with three seeds). torch-pruning gets a network trained by AdamW for 20 epochs, in one cycle of the learning rate
that ends at 0. It cuts the network to our mean number of parameters, and trains it for 12 epochs in a second cycle.
`-local` cuts the same share of every layer, the others rank structures over all layers. `-iterative` makes ten cuts in
the first fifth of the 12 epochs, the others one cut. Numbers are percent of test accuracy, mean ± standard deviation
over the seeds. The best of a row is bold. In brackets are the seeds in which a contender could cut the network so far,
where these are not all.
"""


def study_of(poster: Iterable[Row]) -> Study:
    """Return the study, with our own runs from the poster's."""
    mine = ours(poster)
    return Study(
        "torch-pruning",
        ("network", "dataset", "contender", "seed"),
        lambda rows: _HEAD + "\n" + _table(rows, mine),
    )


def _table(rows: Rows, mine: Mapping[tuple[str, str], Rows]) -> str:
    lines = []
    for cell, found in grouped(rows, ("network", "dataset")).items():
        known = mine[cell[0], cell[1]]
        accuracies = {"ours": [row["accuracy"] for row in known]}
        accuracies |= {name: [row["accuracy"] for row in where(found, contender=name)] for name in CONTENDERS}
        best = max(statistics.mean(values) for values in accuracies.values() if values)
        dense = {row["seed"]: row["dense_accuracy"] for row in found}
        lines.append(
            [
                ", ".join(cell),
                spread(row["compression"] for row in known),
                spread(dense.values()),
                *(_cell(values, best, len(dense)) for values in accuracies.values()),
            ]
        )
    head = ("network, data", "parameters removed", "dense, 20 epochs", "ours", *CONTENDERS)
    return markdown_table(f"| {' | '.join(head)} |", lines)


def _cell(accuracies: Sequence[float], best: float, seeds: int) -> str:
    if not accuracies:
        return "(0)"
    text = spread(accuracies) + (f" ({len(accuracies)})" if len(accuracies) < seeds else "")
    return f"**{text}**" if statistics.mean(accuracies) == best else text
