"""The table and the page of the SBP paper's experiment."""

from __future__ import annotations

__all__ = ["RECIPE", "STUDY", "markdown", "page", "verdict"]

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bmrs_pyro.experiments.sbp import PUBLISHED, Published
from bmrs_pyro.experiments.spread import grouped, spread
from bmrs_pyro.experiments.study import Study

Row = Mapping[str, Any]

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


def page(rows: Sequence[Row]) -> str:
    """Return the page in Markdown."""
    return f"{_HEAD}\n{markdown(rows)}"


def markdown(rows: Sequence[Row]) -> str:
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


def _line(group: Sequence[Row], paper: Published) -> str:
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


def verdict(group: Sequence[Row], paper: Published) -> str:
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
