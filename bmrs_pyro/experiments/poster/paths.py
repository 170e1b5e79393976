"""The path experiment: a network, a data set, a seed, and a target or none; networks chosen from the target's path."""

from __future__ import annotations

__all__ = ["POINTS", "RULES", "path_page", "plot_paths", "rows", "run", "study_of"]

import statistics
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bmrs_pyro import data
from bmrs_pyro.experiments.poster.runs import DATASETS, NETWORKS, POSTER
from bmrs_pyro.experiments.small_runs import evaluated, source_of
from bmrs_pyro.experiments.spread import Row, Rows, markdown_table, spread, where
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.sweep import Config
from bmrs_pyro.path import Path, PathPoint, Target
from bmrs_pyro.pruning import Pruned, prune

RULES: Mapping[str, Mapping[str, Any]] = {
    "one-standard-error": {},
    "max-loss": {"max_loss": 0.5},
    "max-macs": {"max_macs": "50%"},
}
"""The targets, by the name of the rule."""


def run(config: Config, *, data_root: str) -> dict[str, Any]:
    """Choose a network by each rule, from a path that all rules of one KL weight share.

    Test data are read once for each network chosen.

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

    start = time.perf_counter()
    chosen: dict[str, Pruned] = {}
    fitted: dict[str, Pruned] = {}
    seconds = {}
    for rule, target in RULES.items():
        kind = Target(**target).kl_weight
        if kind in fitted:
            chosen[rule] = fitted[kind].choose(**target)
        else:
            chosen[rule] = prune(net, train, validation=validation, seed=seed, channels_last=True, **target)
            fitted[kind] = chosen[rule]
        seconds[rule] = time.perf_counter() - start
        start = time.perf_counter()
    path = chosen["one-standard-error"].path
    return {
        "dense_accuracy": 100 * evaluated(path.network(path.dense), splits.test).accuracy,
        "path": [_point(point) for point in (path.dense, *path.points)],
        "chosen": [
            {
                "rule": rule,
                "target": "".join(f"{name}={value}" for name, value in RULES[rule].items()),
                "accuracy": 100 * evaluated(pruned.network, splits.test).accuracy,
                "met": pruned.met,
                "refits": len(pruned.notes) + 1,
                "seconds": seconds[rule],
                **_costs(pruned.point, pruned.path),
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


_SHOWN = ("compression", "macs_ratio", "accuracy", "dense_accuracy")

_COLUMNS = (
    "| network, data | seeds | compression | MACs left | test accuracy | dense | unpruned | poster's BMRS_N | "
    "compression and accuracy above the poster | at most 0.5 points below unpruned |"
)

_HEAD = """# The path in the six cells

Made by `bmrs reproduce path --data-root DATA --seeds 3 --out docs/results`. Every run is cached, and can be stopped and
started again. [path.json](path.json) has one object for each network that was chosen,
[path-points.json](path-points.json) one for each run, with all points of its path. With `--rebuild` the
command makes this page from them alone.

A run gets the network and the data, and no other option but the seed: 12 epochs without pruning, 36 epochs of the path,
12 epochs for each refit, batches of 128. The validation part, a fifth of the training data, chooses. The test data are
read once for each network chosen. The networks for `max-macs` come from a path of their own, whose KL weight counts
multiply-accumulates.

Numbers are percent, mean ± standard deviation over the seeds. *Dense* is the same network after the 12 epochs without
pruning. *Unpruned* is that of [the poster's page](poster.md), after 32 epochs of the recipe there.
"""


def path_page(rows: Rows, runs: Rows, unpruned: Rows) -> str:
    """Return the page in Markdown, of the networks chosen, the paths, and the poster's runs without pruning."""
    parts = [_HEAD]
    for rule in RULES:
        parts += [f"## {_title(rule)}", "", _table(rows, rule, unpruned)]
    losses = [row["dense_accuracy"] - row["accuracy"] for row in where(rows, rule="max-loss")]
    macs = [row["macs_ratio"] for row in where(rows, rule="max-macs")]
    hours = sum(row["seconds"] for row in rows) / 3600
    parts += [
        f"Against the dense network, `max_loss=0.5` holds on the test data in {sum(loss <= 0.5 for loss in losses)} of "
        f'{len(losses)} runs. `max_macs="50%"` holds in {sum(share <= 50 for share in macs)} of {len(macs)}. '
        f"{len(runs)} runs took {hours:.1f} hours, on one thread each.",
        "",
        "## The paths",
        "",
        "![Validation accuracy against parameters along each path](path.png)",
        "",
    ]
    return "\n".join(parts)


def _title(rule: str) -> str:
    given = ", ".join(f"{name}={value!r}" for name, value in RULES[rule].items())
    return f"Rule `{rule}`" + (f" (`{given}`)" if given else " (no option)")


def _table(rows: Iterable[Row], rule: str, unpruned: Rows) -> str:
    lines = []
    for network in NETWORKS:
        for index, dataset in enumerate(DATASETS):
            cell = where(rows, network=network, dataset=dataset, rule=rule)
            if not cell:
                continue
            plain = [row["accuracy"] for row in where(unpruned, network=network, dataset=dataset)]
            published = POSTER[network, "bmrs-n"][index]
            accuracy, compression = (
                statistics.mean(row[key] for row in cell) for key in ("accuracy", "compression")
            )
            shown = [spread(row[key] for row in cell) for key in _SHOWN]
            lines.append(
                [
                    f"{network}, {dataset}",
                    str(len(cell)),
                    *shown,
                    spread(plain) if plain else "–",
                    f"{published[0]} / {published[1]}",
                    _yes(compression >= published[0] and accuracy >= published[1]),
                    _yes(accuracy >= statistics.mean(plain) - 0.5) if plain else "–",
                ]
            )
    return markdown_table(_COLUMNS, lines)


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def plot_paths(rows: Rows, runs: Rows) -> Figure:
    """Draw the paths, a panel per cell: validation accuracy against the share of the parameters; chosen networks."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(len(NETWORKS), len(DATASETS))
    for line, network in zip(panels, NETWORKS, strict=True):
        for panel, dataset in zip(line, DATASETS, strict=True):
            panel.set_title(f"{network}, {dataset}")
            for run in where(runs, network=network, dataset=dataset):
                dense, *points = run["path"]
                shares = [100 * point["parameters"] / dense["parameters"] for point in points]
                scores = [point["validation_accuracy"] for point in points]
                panel.plot(shares, scores, ".-", color="#999999", linewidth=1, markersize=3)
            for rule, colour, marker in zip(RULES, ("#0072B2", "#D55E00", "#009E73"), "os^", strict=True):
                chosen = where(rows, network=network, dataset=dataset, rule=rule)
                panel.plot(
                    [100 - row["compression"] for row in chosen],
                    [row["validation_accuracy"] for row in chosen],
                    marker,
                    color=colour,
                    label=rule,
                )
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter("{x:g}")
            panel.set_xlabel("parameters left, percent")
            panel.set_ylabel("validation accuracy, percent")
    # under the panels, where it hides no point
    figure.legend(
        *panels[0][0].get_legend_handles_labels(),
        title="chosen, after the refit",
        loc="outside lower center",
        ncols=len(RULES),
    )
    return figure


def study_of(paths: Rows = (), unpruned: Rows = ()) -> Study:
    """Return the study of the networks chosen, with the paths and the poster's runs without pruning."""
    return Study(
        "path",
        ("network", "dataset", "seed", "rule", "target"),
        lambda rows: path_page(rows, paths, unpruned),
        lambda rows: {"path": plot_paths(rows, paths)},
        noun="chosen",
    )


POINTS = Study("path-points", ("network", "dataset", "seed"), lambda rows: "")
"""The paths that the networks were chosen from."""
