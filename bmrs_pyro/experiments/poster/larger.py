"""A residual network and a vision transformer, pruned during training and after it, by every criterion."""

from __future__ import annotations

__all__ = ["KL_WEIGHTS", "METHODS", "NETWORKS", "POSTERIOR", "STUDY", "grid", "page", "run"]

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure

from bmrs_pyro import data
from bmrs_pyro.experiments import study
from bmrs_pyro.experiments.poster.post_training import criteria_applied
from bmrs_pyro.experiments.poster.post_training_summary import plot_curves, points_table
from bmrs_pyro.experiments.poster.runs import PROTOCOLS, continuous_criterion
from bmrs_pyro.experiments.poster.summary import COLOURS, MARKERS
from bmrs_pyro.experiments.small_runs import build, evaluated, first, noisy_model
from bmrs_pyro.experiments.spread import Row, Rows, grouped, markdown_table, spread
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.sweep import Config
from bmrs_pyro.inference import AutoTruncatedLogNormal, posteriors
from bmrs_pyro.network import complexity
from bmrs_pyro.training import fit

NETWORKS = ("resnet-16x1x3", "vit-64x2")
"""Width, blocks and stages of the residual network; width and depth of the transformer."""
METHODS = ("snr", "bmrs-n", "bmrs-u-8", "bmrs-u-4")
"""Criteria that prune during training: those with a rule of their own."""
POSTERIOR = "posterior"
"""The run that is never pruned, and whose posterior all criteria score."""
KL_WEIGHTS = (0.02, 0.05, 0.1, 0.22)
_DATASET, _SIZE, _SHARED = "cifar10", 16, 0.22


def grid(networks: Sequence[str], images: int, epochs: int, seeds: int) -> list[Config]:
    """Return the configurations: a network without gains, a posterior, and every method at every KL weight."""
    methods = (("none", 0.0), (POSTERIOR, _SHARED), *((name, w) for w in KL_WEIGHTS for name in METHODS))
    cells = study.grid(seeds, network=networks, dataset=[_DATASET], images=[images], epochs=[epochs])
    return [{**cell, "method": name, "kl_weight": weight} for cell in cells for name, weight in methods]


def run(config: Config, *, data_root: str) -> dict[str, Any]:
    """Train one network by the poster's protocol 'ours'; test data are read once.

    Args:
        config: ``network``, ``dataset``, ``method``, ``kl_weight`` (a factor), ``images`` (for training), ``epochs``
            (in all; a third of them without pruning) and ``seed``.
        data_root: folder of the data sets.
    """
    protocol, seed, method = PROTOCOLS["ours"], config["seed"], config["method"]
    splits = data.load(config["dataset"], data_root=data_root, size=_SIZE, seed=seed)
    train = first(splits.train, config["images"])
    pyro.set_rng_seed(seed)
    net = build(config["network"], train.input_shape, train.num_classes)
    parameters = complexity(net, torch.zeros(1, *train.input_shape)).parameters
    weight = f"cost:{config['kl_weight']}" if method != "none" else "mean:1e-9"
    model = noisy_model(net, train, 0.02, kl_weight=weight, draws=protocol.recipe.draws)
    guide = AutoTruncatedLogNormal(model, init_log_scale=-5.0 if method != "none" else -12.0)
    if method == "none":
        guide.requires_grad_(False)
    tuning, recipe = config["epochs"] // 3, protocol.recipe
    pruning = config["epochs"] - tuning
    faster = recipe.epochs * len(splits.train) / (pruning * len(train))
    recipe = replace(
        recipe,
        epochs=pruning,
        fine_tune_epochs=tuning,
        posterior_lr_factor=recipe.posterior_lr_factor * max(1.0, faster),
        seed=seed,
        kl_weight=weight,
    )
    history = fit(
        model,
        guide,
        data.Batches(train, recipe.batch_size, seed=seed, augmentation=data.Augmentation(2)),
        recipe,
        criterion=continuous_criterion(method if method in METHODS else "none", protocol),
        validation=data.Batches(splits.validation, 1000, shuffle=False) if method != POSTERIOR else None,
        progress=False,
        channels_last=True,
    )
    if method == POSTERIOR:
        found = criteria_applied(model.network, posteriors(guide), protocol, splits)
        return {"protocol": "ours", "version": version("bmrs-pyro"), **found}
    small, best = history.network, history.best()
    assert best is not None
    cost = complexity(small, torch.zeros(1, *train.input_shape))
    return {
        "protocol": "ours",
        "version": version("bmrs-pyro"),
        "compression": 100 * (1 - cost.parameters / parameters),
        "validation_accuracy": None if best.accuracy is None else 100 * best.accuracy,
        "accuracy": 100 * evaluated(small, splits.test).accuracy,
        "macs": cost.macs,
    }


def page(rows: Rows) -> str:
    """Return the page in Markdown."""
    trained = [row for row in rows if row["method"] != POSTERIOR]
    shared = [row for row in rows if row["method"] == POSTERIOR]
    lines = [
        [
            *map(str, cell),
            spread(row["compression"] for row in group),
            spread(row["accuracy"] for row in group),
        ]
        for cell, group in grouped(trained, ("network", "method", "kl_weight")).items()
    ]
    parts = [
        _HEAD,
        "## Pruned during training\n",
        "![Test accuracy against parameters left](larger.png)\n",
        markdown_table("| network | method | KL weight | parameters removed % | test accuracy % |", lines),
        "## Pruned after training\n",
        _AFTER,
        "![Validation accuracy as structures leave](larger-curves.png)\n" if shared else "",
        points_table(shared),
    ]
    return "\n".join(parts)


def plot(rows: Rows) -> Figure:
    """Draw test accuracy against parameters left, by network, for methods that prune during training."""
    trained = [row for row in rows if row["method"] != POSTERIOR]
    networks = grouped(trained, ("network",))
    figure = Figure(figsize=(max(4.2 * len(networks), 7), 3.8), layout="constrained")
    for ax, ((network,), group) in zip(
        figure.subplots(1, len(networks), squeeze=False)[0], networks.items(), strict=True
    ):
        for row in group:
            if row["method"] == "none":
                ax.axhline(row["accuracy"], color="#000000", linestyle=":", linewidth=1)
        for name in METHODS:
            points = sorted(_left(row) for row in group if row["method"] == name)
            ax.plot(*zip(*points, strict=True), color=COLOURS[name], marker=MARKERS[name], label=name)
        ax.set_title(f"{network}; dotted: without gains", fontsize=10)
        ax.set_xlim(100, 0)
        ax.set_xlabel("parameters left [%]")
        ax.set_ylabel("test accuracy [%]")
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS), frameon=False
    )
    return figure


def _left(row: Row) -> tuple[float, float]:
    return 100 - row["compression"], row["accuracy"]


_HEAD = """# Larger networks: pruned during training and after it

Made by `bmrs reproduce larger --data-root DATA --out docs/results`; [larger.json](larger.json) has one object per run.
BMRS shows ResNets and a vision transformer; these are the ones that fit on two cores. `resnet-16x1x3` is a residual
network with three stages of one block, 16 to 64 channels; `vit-64x2` a vision transformer of width 64 with two blocks.
They see CIFAR-10 at 16 × 16 pixels, mirrored and shifted. The recipe is that of [the poster's table](poster.md), with
fewer epochs and images (`epochs` and `images` in the file); a third of the epochs trains without pruning. The learning
rate of the posteriors is higher in turn, so that a posterior can move as far as there. The KL weights reach
further down, because with fewer images the KL counts for more. Methods without a rule of their own (`l2` and
`expected`) prune after training only.
"""

_AFTER = """One network of each kind is trained with gains and never pruned, at a KL weight of 0.22. All criteria score
its posterior, and structures leave in that order without further training, as in [the curves](curves.md), which
explain the columns.
"""

STUDY = Study(
    "larger",
    ("network", "dataset", "images", "epochs", "method", "kl_weight", "seed"),
    page,
    lambda rows: {
        "larger": plot(rows),
        "larger-curves": plot_curves([row for row in rows if row["method"] == POSTERIOR]),
    },
)
