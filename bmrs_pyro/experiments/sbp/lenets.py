"""The two LeNets of Structured Bayesian Pruning on MNIST: error, widths, operations and measured speed."""

from __future__ import annotations

__all__ = [
    *(
        "NETWORKS",
        "PUBLISHED",
        "RECIPE",
        "STUDY",
        "Published",
        "has_networks",
        "markdown",
        "measured",
        "page",
    ),
    *("recipe_of", "run", "verdict", "widths"),
]

import copy
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import nn

from bmrs_pyro import data
from bmrs_pyro.experiments.plain_training import train_plainly
from bmrs_pyro.experiments.small_runs import evaluated, noisy_model, run_config, source_of
from bmrs_pyro.experiments.spread import Rows, grouped, spread
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.sweep import Config, run_key
from bmrs_pyro.inference import AutoTruncatedLogNormal
from bmrs_pyro.inference import posteriors as posteriors_of
from bmrs_pyro.metrics import latency
from bmrs_pyro.network import FeatureSelection, complexity
from bmrs_pyro.reduction import Decision, named_criterion
from bmrs_pyro.runs import RunDirectory
from bmrs_pyro.training import Recipe, fit

NETWORKS = ("lenet_fc", "lenet5_caffe")


class Published(NamedTuple):
    """A row of the SBP paper: its pruned network compared with the dense one."""

    dense: str
    widths: str
    error: float
    flops_ratio: float
    cpu_ratio: float


PUBLISHED: Mapping[str, Published] = {
    "lenet_fc": Published("784-500-300", "245-160-55", 1.55, 11.23, 2.33),
    "lenet5_caffe": Published("20-50-800-500", "3-18-284-283", 0.86, 10.49, 5.41),
}


def run(config: Config, *, data_root: str, cache: str) -> dict[str, Any]:
    """Make one run, and save its networks in a run directory, so that they can be timed on a quiet machine.

    Args:
        config: ``network``, ``method`` (``snr`` or ``bmrs-n``), ``kl_weight`` (as ``bmrs fit`` takes it), ``seed``,
            ``epochs``, ``fine_tune_epochs``, ``warm_up`` (epochs of plain training before), ``posterior_lr_factor``,
            ``label_smoothing`` and ``refit`` (whether to train on the validation data too and keep the last epoch, by
            a recipe that was chosen before).
        data_root: folder of the data sets.
        cache: folder of finished runs.

    Returns:
        error in percent, structures and layer widths left, FLOPs ratio.
    """
    source = source_of(config["network"])
    splits = data.load("mnist", data_root=data_root, seed=config["seed"], validation=1 / 6)
    train = _joined(splits.train, splits.validation) if config["refit"] else splits.train
    recipe = recipe_of(config)
    settings = run_config(source, train, recipe, data_root, validation=1 / 6)
    start = time.perf_counter()
    pyro.set_rng_seed(config["seed"])
    example = torch.zeros(1, *train.input_shape)
    net = source.build(train.input_shape, train.num_classes)
    batches = data.Batches(train, 100, seed=config["seed"])
    # the posterior starts around a trained network
    train_plainly(net, batches, config["warm_up"], schedule=lambda progress: 1.0)
    dense = copy.deepcopy(net).eval()
    model = noisy_model(net, train, recipe.label_smoothing, kl_weight=recipe.kl_weight)
    guide = AutoTruncatedLogNormal(model)
    criterion = named_criterion(config["method"])
    directory = _directory(config, cache)
    # files of an interrupted run are of no use: this run starts again
    shutil.rmtree(directory.path, ignore_errors=True)
    RunDirectory.create(directory.path, settings)
    history = fit(
        model,
        guide,
        batches,
        recipe,
        validation=None if config["refit"] else data.Batches(splits.validation, 1000, shuffle=False),
        progress=False,
        callbacks=[directory.append_metrics],
    )
    small = history.network
    directory.save_network(model.network, posteriors_of(guide), history)
    decision = Decision.by(criterion, config["method"], history.keep, history.scores)
    directory.save_decision(decision, small)
    best = history.best()
    assert best is not None
    return {
        "error": 100 * (1 - evaluated(small, splits.test).accuracy),
        "validation_error": None if best.accuracy is None else 100 * (1 - best.accuracy),
        "widths": widths(small),
        "structures": dict(best.structures),
        "flops_ratio": complexity(dense, example).macs / complexity(small, example).macs,
        "best_epoch": best.epoch,
        "seconds": time.perf_counter() - start,
        "version": version("bmrs-pyro"),
    }


def recipe_of(config: Config) -> Recipe:
    """Return the recipe of a configuration."""
    return Recipe(
        criterion=config["method"],
        batch_size=100,
        lr=1e-3,
        epochs=config["epochs"],
        fine_tune_epochs=config["fine_tune_epochs"],
        posterior_lr_factor=config["posterior_lr_factor"],
        kl_weight=config["kl_weight"],
        label_smoothing=config["label_smoothing"],
        seed=config["seed"],
    )


def has_networks(config: Config, *, cache: str) -> bool:
    """Whether the networks of a finished run still exist and can be timed."""
    return _directory(config, cache).exists()


def measured(config: Config, *, cache: str, repeats: int = 20) -> dict[str, Any]:
    """Time the small network of a finished run against the dense one, in turns, on this machine.

    Returns:
        ``cpu_ratio_batch_1``, ``cpu_ratio_batch_128``: dense seconds over small seconds; ``threads``: their number.
    """
    directory = _directory(config, cache)
    nets = {"dense": _plain(directory.dense().eval()), "small": directory.small()}
    record: dict[str, Any] = {"threads": torch.get_num_threads()}
    images = torch.randn(128, *directory.config.input_shape, generator=torch.Generator().manual_seed(0))
    for batch in (1, 128):
        seconds = latency(nets, images[:batch], repeats=repeats)
        record[f"cpu_ratio_batch_{batch}"] = seconds["dense"] / seconds["small"]
    return record


def widths(net: nn.Module) -> list[int]:
    """Return the widths that the paper lists: output channels of convolutions, then inputs of linear layers."""
    found = [layer.out_channels for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    return found + [layer.in_features for layer in net.modules() if isinstance(layer, nn.Linear)]


def _plain(net: nn.Module) -> nn.Module:
    """Take out the layers that select inputs: in a dense network they cost time and select all inputs."""
    for name, layer in list(net.named_modules()):
        if isinstance(layer, FeatureSelection):
            net.set_submodule(name, nn.Identity())
    return net


def _joined(first: data.Dataset, second: data.Dataset) -> data.Dataset:
    return replace(
        first,
        images=torch.cat([first.images, second.images]),
        labels=torch.cat([first.labels, second.labels]),
    )


def _directory(config: Config, cache: str) -> RunDirectory:
    return RunDirectory(Path(cache) / f"{run_key(config)}.run")


RECIPE = (
    "network",
    "method",
    "kl_weight",
    "posterior_lr_factor",
    "label_smoothing",
    "warm_up",
    "epochs",
    "fine_tune_epochs",
    "refit",
)
"""The settings that runs with different seeds share."""

_HEAD = """# Structured Bayesian Pruning's networks on MNIST

Made by `bmrs reproduce sbp --data-root DATA --out docs/results`; [sbp.json](sbp.json) has one object per run. Errors
are on the test data; a sixth of the training data chose the epoch. With *refit*, that sixth was trained on too, by a
recipe chosen before, and the last epoch was kept. FLOPs is the ratio of multiply-accumulates, CPU the ratio of measured
seconds, dense network over small network; the two took turns in blocks of ten calls. Numbers are means ± standard
deviations over seeds.

Epochs are given as plain training + with pruning + without pruning. Widths are counted like the paper's: output
channels of the convolutions, then the inputs of each linear layer.
LeNet-fc's 784 input pixels have gains, as in the paper; its dense network is timed without the layer that selects
them.
"""


def page(rows: Rows) -> str:
    """Return the page in Markdown."""
    return f"{_HEAD}\n{markdown(rows)}"


def markdown(rows: Rows) -> str:
    """Return a table of our runs beside the paper's: one line per recipe, with the numbers that it misses."""
    lines = [
        "| network | recipe | seeds | error % | left | FLOPs | CPU, batch 1 | CPU, batch 128 | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ordered = sorted(rows, key=lambda row: (*(str(row[key]) for key in RECIPE), row["seed"]))
    groups = grouped(ordered, RECIPE)
    for network, paper in PUBLISHED.items():
        lines.append(
            f"| {network} | SBP paper | | {paper.error:.2f} | {paper.dense} → {paper.widths} "
            f"| {paper.flops_ratio:.2f} × | | {paper.cpu_ratio:.2f} × | |"
        )
        lines += [_line(group, paper) for recipe, group in groups.items() if recipe[0] == network]
    return "\n".join(lines) + "\n"


def _line(group: Rows, paper: Published) -> str:
    first = group[0]
    left = "; ".join("-".join(map(str, row["widths"])) for row in group)
    ratios = ("flops_ratio", "cpu_ratio_batch_1", "cpu_ratio_batch_128")
    cells = [
        first["network"],
        f"{first['method']}, KL {first['kl_weight']}, posteriors' rate {first['posterior_lr_factor']:g}, "
        f"labels smoothed by {first['label_smoothing']:g}, "
        f"{first['warm_up']} + {first['epochs']} + {first['fine_tune_epochs']} epochs"
        + (", refit" if first["refit"] else ""),
        str(len(group)),
        spread(row["error"] for row in group),
        left,
        *(f"{spread(row[key] for row in group)} ×" for key in ratios),
        verdict(group, paper),
    ]
    return f"| {' | '.join(cells)} |"


def verdict(group: Rows, paper: Published) -> str:
    """Say which of the paper's numbers the means do not reach."""
    error, flops, cpu = (
        statistics.mean(row[key] for row in group) for key in ("error", "flops_ratio", "cpu_ratio_batch_128")
    )
    misses = [
        name
        for name, missed in (
            ("error", error > paper.error),
            ("FLOPs", flops < paper.flops_ratio),
            ("CPU", cpu < paper.cpu_ratio),
        )
        if missed
    ]
    return f"misses {', '.join(misses)}" if misses else "better"


STUDY = Study("sbp", (*RECIPE, "seed"), page)
