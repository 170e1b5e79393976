"""Random labels: what structured pruning and binary dropout make of data in which there is nothing to learn."""

from __future__ import annotations

__all__ = ["LABELS", "METHODS", "STUDY", "page", "run"]

import time
from dataclasses import replace
from statistics import median
from typing import Any

import pyro
import torch
from torch import nn

from bmrs_pyro import data
from bmrs_pyro.experiments.plain_training import train_plainly
from bmrs_pyro.experiments.small_runs import build, evaluated, first, train_pruned
from bmrs_pyro.experiments.spread import Rows, table
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.sweep import Config

LABELS = ("random", "true")
METHODS = ("dropout", "bmrs-n", "snr")


def run(config: Config, *, data_root: str) -> dict[str, Any]:
    """Train one network on the first images of MNIST, with their labels or with these permuted.

    Args:
        config: ``network`` (a file of ``models/``), ``labels``, ``method``, ``images`` (how many), ``epochs`` and
            ``seed``.
        data_root: folder of the data sets.

    Returns:
        training and test error in percent; of the pruning methods the structures at first and at the end, and the
        median score, of ``bmrs-n`` ΔF + 1 in nats.
    """
    splits = data.load("mnist", data_root=data_root, validation=1 / 6)
    pyro.set_rng_seed(config["seed"])
    train = first(splits.train, config["images"])
    if config["labels"] == "random":
        train = replace(train, labels=train.labels[torch.randperm(len(train))])
    net = build(config["network"], train.input_shape, train.num_classes)
    batches = data.Batches(train, 100, seed=config["seed"])
    start = time.perf_counter()
    result: dict[str, Any] = {}
    if config["method"] == "dropout":
        net = _with_dropout(net)
        train_plainly(net, batches, config["epochs"])
        net.eval()
    else:
        history = train_pruned(
            net, train, batches, config, config["method"], "elbo", posterior_lr_factor=200.0
        )
        net, scores = history.network, torch.cat(list(history.scores.values())).tolist()
        result = {"structures": [history.keep.total, history.keep.kept], "score": median(scores)}
    for name, part in (("training_error", train), ("test_error", splits.test)):
        result[name] = 100 * (1 - evaluated(net, part).accuracy)
    return {**result, "seconds": time.perf_counter() - start}


def _with_dropout(net: nn.Module) -> nn.Module:
    """Put binary dropout of rate ½ in front of every linear layer that reads hidden units."""
    weighted = [name for name, layer in net.named_children() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for name in weighted[1:]:
        if isinstance(layer := net.get_submodule(name), nn.Linear):
            net.set_submodule(name, nn.Sequential(nn.Dropout(0.5), layer))
    return net


def page(rows: Rows) -> str:
    """Return the page in Markdown."""
    return _HEAD + table(
        rows,
        STUDY.keys,
        {
            "training error %": lambda row: row["training_error"],
            "test error %": lambda row: row["test_error"],
            "structures": lambda row: "{} → {}".format(*row["structures"]) if "structures" in row else None,
            "left %": lambda row: (
                100 * row["structures"][1] / row["structures"][0] if "structures" in row else None
            ),
            "median ΔF [nats]": lambda row: row["score"] - 1 if row["method"] == "bmrs-n" else None,
        },
    )


_HEAD = """# Random labels

Made by `bmrs reproduce random-labels --data-root DATA --out docs/results`; [random-labels.json](random-labels.json) has
one object per run. A network sees the first images of MNIST's training part with their labels, or with these labels
permuted, where there is nothing to learn and chance has an error of 90 %. `dropout` is the network with binary dropout
of rate ½ in front of every linear layer behind the first layer, trained by Adam at 1e-3. The other methods train by the
true ELBO, with no weight on the KL, and prune after every epoch of the first three quarters. Every family keeps at
least one structure, 3 in all in both networks. ΔF is of the removal of a structure, and `bmrs-n` removes above −1 nat;
the median is over all structures, of those that left when they did.

"""

STUDY = Study("random-labels", ("network", "labels", "method", "images", "epochs", "seed"), page)
