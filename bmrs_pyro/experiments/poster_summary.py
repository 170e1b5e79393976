"""The poster's experiment in tables and a figure: our fronts beside the published points."""

from __future__ import annotations

__all__ = ["Point", "fronts", "markdown", "plot_fronts"]

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bmrs_pyro.experiments.poster import DATASETS, NETWORKS, POSTER

Cell = tuple[str, str, str]

# Okabe and Ito's palette
COLOURS = {"bmrs-n": "#0072B2", "bmrs-u-8": "#009E73", "bmrs-u-4": "#D55E00", "snr": "#CC79A7"}
MARKERS = {"bmrs-n": "o", "bmrs-u-8": "s", "bmrs-u-4": "^", "snr": "D"}


@dataclass(frozen=True)
class Point:
    """Runs that differ only in their seed.

    Attributes:
        kl_weight: factor of the KL weight.
        compression, accuracy: mean over the seeds, in percent.
        compression_std, accuracy_std: standard deviation over them, 0 for a single one.
        seeds: how many.
    """

    kl_weight: float
    compression: float
    accuracy: float
    compression_std: float
    accuracy_std: float
    seeds: int

    def beats(self, published: tuple[float, float]) -> bool:
        """Whether compression and accuracy are both at or above the published ones."""
        return self.compression >= published[0] and self.accuracy >= published[1]


def fronts(rows: Iterable[Mapping[str, Any]], protocol: str) -> dict[Cell, list[Point]]:
    """Collect the runs of a protocol into points, by (network, data set, method), weakest KL weight first."""
    groups: dict[Cell, dict[float, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["protocol"] == protocol:
            groups[row["network"], row["dataset"], row["method"]][row["kl_weight"]].append(row)
    return {
        cell: [_point(weight, group) for weight, group in sorted(by_weight.items())]
        for cell, by_weight in groups.items()
    }


def published(cell: Cell) -> tuple[float, float]:
    """Return the poster's compression and accuracy of a cell, in percent."""
    network, dataset, method = cell
    return POSTER[network, method][DATASETS.index(dataset)]


def markdown(points: Mapping[Cell, Sequence[Point]]) -> str:
    """Return a table of all points beside the poster's, with a plain verdict for each."""
    lines = [
        "| network | data | method | poster | KL weight | compression % | accuracy % | seeds | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, front in sorted(points.items()):
        reference = published(cell)
        for point in front:
            verdict = "better" if point.beats(reference) else _shortfall(point, reference)
            lines.append(
                f"| {' | '.join(cell)} | {reference[0]:.2f} / {reference[1]:.2f} | {point.kl_weight:g} "
                f"| {point.compression:.2f} ± {point.compression_std:.2f} "
                f"| {point.accuracy:.2f} ± {point.accuracy_std:.2f} | {point.seeds} | {verdict} |"
            )
    return "\n".join(lines) + "\n"


def plot_fronts(points: Mapping[Cell, Sequence[Point]]) -> Figure:
    """Draw accuracy against compression: our fronts as lines, the poster's points hollow."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(NETWORKS), len(DATASETS), squeeze=False)
    for network, axes in zip(NETWORKS, grid, strict=True):
        for dataset, ax in zip(DATASETS, axes, strict=True):
            for method, colour in COLOURS.items():
                cell, marker = (network, dataset, method), MARKERS[method]
                front = points.get(cell, ())
                if front:
                    ax.errorbar(
                        [point.compression for point in front],
                        [point.accuracy for point in front],
                        xerr=[point.compression_std for point in front],
                        yerr=[point.accuracy_std for point in front],
                        color=colour,
                        marker=marker,
                        label=method,
                    )
                if method != "snr" and front:
                    ax.plot(*published(cell), marker=marker, color=colour, fillstyle="none", markersize=10)
            ax.set_title(f"{network}, {dataset}")
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("test accuracy [%]")
    for ax in grid[-1]:
        ax.set_xlabel("parameters removed [%]")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, title="lines: ours; hollow: poster")
    return figure


def _point(weight: float, group: Sequence[Mapping[str, Any]]) -> Point:
    compression = [row["compression"] for row in group]
    accuracy = [row["accuracy"] for row in group]
    return Point(
        weight,
        statistics.mean(compression),
        statistics.mean(accuracy),
        statistics.stdev(compression) if len(group) > 1 else 0.0,
        statistics.stdev(accuracy) if len(group) > 1 else 0.0,
        len(group),
    )


def _shortfall(point: Point, reference: tuple[float, float]) -> str:
    parts = []
    if point.compression < reference[0]:
        parts.append(f"{reference[0] - point.compression:.2f} less compression")
    if point.accuracy < reference[1]:
        parts.append(f"{reference[1] - point.accuracy:.2f} less accuracy")
    return ", ".join(parts)
