"""The VGG-like network of Structured Bayesian Pruning on CIFAR-10, of any width: dense, by SNR, by BMRS."""

from __future__ import annotations

__all__ = ["METHODS", "STUDY", "page", "run"]

import copy
import time
from typing import Any

import pyro
import torch

from bmrs_pyro import data
from bmrs_pyro.experiments.plain_training import train_plainly
from bmrs_pyro.experiments.sbp.lenets import widths
from bmrs_pyro.experiments.small_runs import build, evaluated, first, train_pruned
from bmrs_pyro.experiments.spread import Rows, table
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.sweep import Config
from bmrs_pyro.network import complexity

METHODS = ("dense", "snr", "bmrs-n")


def run(config: Config, *, data_root: str, device: str = "cpu") -> dict[str, Any]:
    """Train one network on images that are shifted and mirrored at random.

    Args:
        config: ``width`` (of the first stage, as published 64), ``method``, ``kl_weight``, ``images`` (how many, of the
            training part), ``epochs`` and ``seed``.
        data_root: folder of the data sets.
        device: where the network is trained.

    Returns:
        test error in percent, widths, ratios of parameters and multiply-accumulates to the dense network's, seconds per
        epoch, and the device.
    """
    splits = data.load("cifar10", data_root=data_root, validation=0.1)
    train = first(splits.train, config["images"])
    pyro.set_rng_seed(config["seed"])
    net = build(f"vgg-{config['width']}", train.input_shape, train.num_classes).to(device)
    dense, example = copy.deepcopy(net).eval(), torch.zeros(1, *train.input_shape, device=device)
    batches = data.Batches(train, 100, seed=config["seed"], augmentation=data.Augmentation(), device=device)
    start = time.perf_counter()
    if config["method"] == "dense":
        train_plainly(net, batches, config["epochs"])
        small = net.eval()
    else:
        small = train_pruned(
            net, train, batches, config, config["method"], config["kl_weight"], posterior_lr_factor=20.0
        ).network
    seconds = (time.perf_counter() - start) / config["epochs"]
    before, after = complexity(dense, example), complexity(small, example)
    return {
        "error": 100 * (1 - evaluated(small, splits.test, 500, device).accuracy),
        "widths": widths(small),
        "parameters_ratio": before.parameters / after.parameters,
        "flops_ratio": before.macs / after.macs,
        "seconds_per_epoch": seconds,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
    }


def page(rows: Rows) -> str:
    """Return the page in Markdown."""
    return _HEAD + table(
        rows,
        STUDY.keys,
        {
            "error %": lambda row: row["error"],
            "parameters": lambda row: row["parameters_ratio"],
            "FLOPs": lambda row: row["flops_ratio"],
            "widths": lambda row: "-".join(map(str, row["widths"])),
            "seconds per epoch": lambda row: row["seconds_per_epoch"],
        },
    )


_HEAD = """# The VGG-like network on CIFAR-10

Made by `bmrs reproduce vgg --data-root DATA --out docs/results`; [vgg.json](vgg.json) has one object per run.
`models/vgg.py` with `width` channels in its first stage, where the published network has 64, and all other layers in
proportion, on the first images of the training part, shifted and mirrored at random. `dense` is trained plainly; the
others prune after every epoch of the first three quarters. Parameters and FLOPs are the dense network's, divided by
the small one's. Seconds are of the device and of what else ran on it.

"""

STUDY = Study("vgg", ("width", "method", "kl_weight", "images", "epochs", "seed"), page)
