"""Structures first, weights second: the two methods together against either alone."""

from __future__ import annotations

__all__ = ["METHODS", "NETWORKS", "STUDY", "page", "run"]

import time
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
from bmrs_pyro.weights import Flipout, MeanField, SpikeAndSlab, WeightModel, fit_weights, mean_network

NETWORKS = ("lenet5_caffe", "mlp_mixer-64x2")
METHODS = ("dense", "structures", "weights", "both")


def run(config: Config, *, data_root: str) -> dict[str, Any]:
    """Train one network, and prune its structures, its weights, both or nothing.

    Args:
        config: ``network``, ``data``, ``method``, ``images`` (how many, of the training part), ``epochs`` (of each of
            the two stages) and ``seed``.
        data_root: folder of the data sets.

    Returns:
        test accuracy in percent, parameters of the dense network and of the network that is left, and how many of these
        are not 0.
    """
    splits = data.load(config["data"], data_root=data_root, validation=0.1)
    train = first(splits.train, config["images"])
    pyro.set_rng_seed(config["seed"])
    net = build(config["network"], train.input_shape, train.num_classes)
    dense = sum(parameter.numel() for parameter in net.parameters())
    batches = data.Batches(train, 100, seed=config["seed"])
    start = time.perf_counter()
    if config["method"] in ("structures", "both"):
        net = train_pruned(
            net, train, batches, config, "bmrs-n", "cost:0.1", posterior_lr_factor=40.0
        ).network
    else:
        train_plainly(net, batches, config["epochs"])
    if config["method"] in ("weights", "both"):
        net = _without_weights(net, batches, len(train), config)
    else:  # as many epochs as the others have
        train_plainly(net, batches, config["epochs"])
    parameters = list(net.parameters())
    return {
        "accuracy": 100 * evaluated(net.eval(), splits.test).accuracy,
        "parameters": [dense, sum(parameter.numel() for parameter in parameters)],
        "nonzero": sum(int(parameter.count_nonzero()) for parameter in parameters),
        "seconds": time.perf_counter() - start,
    }


def _without_weights(net: nn.Module, batches: data.Batches, count: int, config: Config) -> nn.Module:
    """Fit Gaussian posteriors around a trained network's weights, prune by spike and slab, return the mean network."""
    model = WeightModel(net, "categorical", count, select=lambda name: "norm" not in name)
    guide = MeanField(model.draw)
    trained = dict(net.named_parameters())
    for layer in model.layers:
        loc = layer.matrix(trained).detach() / (1.0 if layer.last else 0.1)
        guide.set_(
            layer.name, torch.distributions.Normal(loc, 0.1), torch.ones(layer.shape, dtype=torch.bool)
        )
    with pyro.validation_enabled(False):
        fit_weights(
            model,
            guide,
            batches,
            epochs=config["epochs"],
            rule=SpikeAndSlab(),
            estimator=Flipout(),
            seed=config["seed"],
            progress=False,
        )
    return mean_network(model, guide)


def page(rows: Rows) -> str:
    """Return the page in Markdown."""
    return _HEAD + table(
        rows,
        STUDY.keys,
        {
            "accuracy %": lambda row: row["accuracy"],
            "parameters when cut": lambda row: float(row["parameters"][1]),
            "of them not 0": lambda row: float(row["nonzero"]),
            "removed %": lambda row: 100 * (1 - row["nonzero"] / row["parameters"][0]),
        },
    )


_HEAD = """# Structures first, weights second

Made by `bmrs reproduce both --data-root DATA --out docs/results`; [both.json](both.json) has one object per run. Every
network is trained twice as many epochs as the table says, on the first images of the training part. `structures`: with
gains pruned by BMRS_N, then plainly. `weights`: plainly, then with Gaussian posteriors around the trained weights,
pruned by spike and slab. `both`: with gains, then with Gaussian posteriors of what is left. `dense`: plainly, twice.
Accuracies are of the test data, of the network at the posterior mean.

"""

STUDY = Study("both", ("network", "data", "method", "images", "epochs", "seed"), page)
