"""Curves, rank correlations and evidence of finished posteriors, as a page and its figures."""

from __future__ import annotations

__all__ = [
    "PUBLISHED_SPEARMAN",
    "STUDY",
    "plot_curves",
    "plot_decisions",
    "plot_evidence_of",
    "points_table",
    "post_training_page",
]

import statistics
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from bmrs_pyro.experiments.poster.post_training import CRITERIA, LOST, ODDS
from bmrs_pyro.experiments.poster.summary import COLOURS, MARKERS
from bmrs_pyro.experiments.spread import Row, Rows, grouped, markdown_table, spread
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.reduction import Decision, KeepMask
from bmrs_pyro.reporting import plot_evidence

# as the poster reports them
PUBLISHED_SPEARMAN = {
    "expected~snr": 1.0,
    "l2~snr": 0.86,
    "snr~bmrs-n": 0.95,
    "snr~bmrs-u-8": 0.47,
    "snr~bmrs-u-4": 0.27,
    "bmrs-u-8~bmrs-u-4": 0.80,
}

_HEAD = """# After training: what each criterion makes of one posterior

Made by `bmrs reproduce curves --data-root DATA --out docs/results`; [curves.json](curves.json) has one object per
posterior. A network is trained with gains and never pruned. Then all criteria score the same posterior, without further
training. Structures of all families are removed in the order of their scores; each family keeps at least one.

The curves show validation accuracy. *Stop* is where a criterion's own rule stops (SNR ≤ 1; ΔF + log prior odds > 0;
`l2` and `expected` have none and take BMRS_N's number of structures). *Best* is the smallest network on the curve that
loses no more than {lost:g} point of validation accuracy. Test accuracy was read for these points only. Numbers are
means ± standard deviations over seeds, where there are several.
"""


def post_training_page(rows: Rows) -> str:
    """Return the page in Markdown.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no posterior is finished in --cache or in --out; run without --rebuild")
    parts = [
        _HEAD.format(lost=LOST),
        "![Accuracy against compression as structures leave](curves.png)\n",
        points_table(rows),
        "## Rank correlation of the scores\n",
        "Spearman's, over all structures of a network.\n",
        _spearman_table(rows),
        "## How clear the decisions are\n",
        "ΔF of every structure under BMRS_N; right of the dashed line (−log prior odds) structures are removed.\n",
        "![Histograms of ΔF](evidence.png)\n",
        _evidence_table(rows),
        "## How much the choices matter\n",
        "Structures removed, over all seeds; in brackets, how many decisions differ from those at 1 nat (BMRS_N) or "
        "at 8 bits (BMRS_U).\n",
        "![Structures removed by log prior odds and by bits](decisions.png)\n",
        _decisions_table(rows, "odds", "log prior odds of BMRS_N [nats]"),
        _decisions_table(rows, "bits", "bits of BMRS_U"),
    ]
    return "\n".join(parts)


def plot_curves(rows: Rows) -> Figure:
    """Draw validation accuracy against parameters left by criterion, one panel per cell; stops filled, best hollow."""

    def panel(ax: Axes, group: Rows) -> None:
        for name in CRITERIA:
            curves = [row["curves"][name] for row in group]
            left = 100 - np.mean([curve["compression"] for curve in curves], 0)
            accuracy = np.mean([curve["validation_accuracy"] for curve in curves], 0)
            ax.plot(left, accuracy, color=COLOURS[name], linewidth=1.2)
            if len(curves) > 1:
                deviation = np.std([curve["validation_accuracy"] for curve in curves], 0, ddof=1)
                edges = (accuracy - deviation, accuracy + deviation)
                ax.fill_between(left, *edges, color=COLOURS[name], alpha=0.15, linewidth=0)
            for key, face, size, order in (("best", "white", 9, 3), ("stop", COLOURS[name], 7, 4)):
                x = 100 - statistics.mean(curve[key]["compression"] for curve in curves)
                y = statistics.mean(curve[key]["validation_accuracy"] for curve in curves)
                ax.plot(x, y, MARKERS[name], mfc=face, mec=COLOURS[name], ms=size, zorder=order)
        # what matters happens at a few percent
        ax.set_xscale("log")
        ax.set_xlim(110, 0.8)
        ax.xaxis.set_major_locator(FixedLocator([100, 50, 20, 10, 5, 2, 1]))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.grid(color="#000000", alpha=0.1, linewidth=0.5)

    figure = _panels(_cells(rows), panel, "parameters left [%]", "validation accuracy [%]")
    figure.legend(
        handles=[Line2D([], [], color=COLOURS[name], marker=MARKERS[name], label=name) for name in CRITERIA],
        loc="outside lower center",
        ncols=len(CRITERIA),
        frameon=False,
        title=f"filled: where the rule stops; hollow: best, {LOST:g} point of accuracy lost at most",
    )
    return figure


def plot_evidence_of(rows: Rows) -> Figure:
    """Draw histograms of BMRS_N's ΔF, kept and removed structures of all seeds, one panel per cell."""

    def panel(ax: Axes, group: Rows) -> None:
        margin = group[0]["margin"]
        scores = torch.tensor([value for row in group for value in row["delta_f"]]) + margin
        decision = Decision("bmrs-n", KeepMask({"all": scores <= 0}), {"all": scores}, margin)
        plot_evidence(decision, ax)
        values = scores - margin
        ax.set_xlim(min(1.5 * float(values.min()), -2), max(1.5 * float(values.max()), 1))

    return _panels(_cells(rows), panel, "ΔF [nats]", "structures")


def plot_decisions(rows: Rows) -> Figure:
    """Draw the share of structures removed against log prior odds and against bits, one line per cell."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    styles = list(zip(COLOURS.values(), MARKERS.values(), strict=True))
    for ax, key, label in zip(
        axes, ("odds", "bits"), ("log prior odds of BMRS_N [nats]", "bits of BMRS_U"), strict=True
    ):
        for index, (cell, group) in enumerate(_cells(rows).items()):
            colour, marker = styles[index % len(styles)]
            line = "-" if index < len(styles) else "--"
            x = [record["value"] for record in group[0][key]]
            shares = [[100 * record["removed"] / len(row["delta_f"]) for record in row[key]] for row in group]
            ax.plot(
                x, np.mean(shares, 0), line, color=colour, marker=marker, markersize=4, label=_title(cell)
            )
        ax.axvline(1 if key == "odds" else 8, color="#000000", linestyle=":", linewidth=1)
        ax.set_xlabel(label)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_xscale("log")
    axes[0].set_xticks(ODDS, [f"{value:g}" for value in ODDS], minor=False)
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("structures removed [%]")
    axes[0].set_ylim(-2, 102)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _panels(
    cells: Mapping[tuple[Any, ...], Rows],
    draw: Callable[[Axes, Rows], None],
    x: str,
    y: str,
) -> Figure:
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    figure = Figure(figsize=(max(3.9 * columns, 7), 3.2 * lines + 0.8), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for ax in grid.flat[len(cells) :]:
        ax.set_visible(False)
    for ax, (cell, group) in zip(grid.flat, cells.items(), strict=False):
        draw(ax, group)
        legend = ax.get_legend()
        # above the legend, which has the place of a title, and two entries in a row
        pad = 8 + 14 * -(-len(legend.get_texts()) // 2) if legend else None
        ax.set_title(_title(cell), fontsize=10, pad=pad)
        ax.set_xlabel(x)
        ax.set_ylabel(y)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _cells(rows: Rows) -> dict[tuple[Any, ...], list[Row]]:
    keys = ("protocol", "network", "dataset", "kl_weight")
    return grouped(sorted(rows, key=itemgetter(*keys, "seed")), keys)


def _title(cell: tuple[Any, ...]) -> str:
    protocol, network, dataset, weight = cell
    suffix = "" if protocol == "ours" else f", {protocol}"
    return f"{network}, {dataset}, KL {weight:g}{suffix}"


def points_table(rows: Rows) -> str:
    """Return a table of the marked points of the curves."""
    lines = [
        "| network, data, KL weight | criterion | stop: compression / test accuracy % | best |",
        "|---|---|---|---|",
    ]
    for cell, group in _cells(rows).items():
        unpruned = spread(row["unpruned"]["accuracy"] for row in group)
        lines.append(f"| {_title(cell)} | none | 0 / {unpruned} | |")
        for name in CRITERIA:
            marked = [
                " / ".join(
                    spread(row["curves"][name][key][axis] for row in group)
                    for axis in ("compression", "accuracy")
                )
                for key in ("stop", "best")
            ]
            lines.append(f"| {_title(cell)} | {name} | {' | '.join(marked)} |")
    return "\n".join(lines) + "\n"


def _spearman_table(rows: Rows) -> str:
    pairs = sorted(rows[0]["spearman"], key=lambda pair: pair not in PUBLISHED_SPEARMAN)
    cells = _cells(rows)
    lines = []
    for pair in pairs:
        published = f"{PUBLISHED_SPEARMAN[pair]:.2f}" if pair in PUBLISHED_SPEARMAN else ""
        ours = [spread(row["spearman"][pair] for row in group) for group in cells.values()]
        lines.append([pair, published, *ours])
    return markdown_table(f"| pair | poster | {' | '.join(map(_title, cells))} |", lines)


def _evidence_table(rows: Rows) -> str:
    lines = []
    for cell, group in _cells(rows).items():
        margin = group[0]["margin"]
        values = [value for row in group for value in row["delta_f"]]
        kept = [value for value in values if value + margin <= 0]
        removed = [value for value in values if value + margin > 0]
        near = sum(-2 * margin < value < -margin / 2 for value in values)
        medians = [f"{statistics.median(part):.3g}" if part else "" for part in (kept, removed)]
        lines.append([_title(cell), *map(str, (len(values), len(removed), near)), *medians])
    head = "| network, data, KL weight | structures | removed | ½ to 2 × the margin | median ΔF of kept | of removed |"
    return markdown_table(head, lines)


def _decisions_table(rows: Rows, key: str, label: str) -> str:
    values = [record["value"] for record in rows[0][key]]
    lines = []
    for cell, group in _cells(rows).items():
        entries = []
        for index in range(len(values)):
            removed, changed = (
                sum(row[key][index][what] for row in group) for what in ("removed", "changed")
            )
            entries.append(f"{removed} ({changed})")
        lines.append([_title(cell), *entries])
    return markdown_table(f"| {label} | {' | '.join(f'{value:g}' for value in values)} |", lines)


STUDY = Study(
    "curves",
    ("network", "dataset", "method", "protocol", "kl_weight", "seed"),
    post_training_page,
    lambda rows: {
        "curves": plot_curves(rows),
        "evidence": plot_evidence_of(rows),
        "decisions": plot_decisions(rows),
    },
    noun="posteriors",
)
