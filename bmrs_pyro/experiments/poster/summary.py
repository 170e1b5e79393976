"""The poster's experiment in tables and a figure: our fronts beside the published points, and which is better."""

from __future__ import annotations

__all__ = [
    "COLOURS",
    "CONTESTED",
    "MARKERS",
    "Point",
    "Verdict",
    "default_table",
    "fronts",
    "judged",
    "markdown",
    "plot_fronts",
    "verdict_table",
]

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bmrs_pyro.experiments.poster.runs import ASKED, DATASETS, NETWORKS, POSTER
from bmrs_pyro.experiments.spread import Row, Rows, grouped, markdown_table, where

Cell = tuple[str, str, str]

CONTESTED = ("bmrs-n", "bmrs-u-8", "bmrs-u-4")
"""Methods whose published points are to be beaten."""

# Okabe and Ito's palette
COLOURS = {
    "bmrs-n": "#0072B2",
    "bmrs-u-8": "#009E73",
    "bmrs-u-4": "#D55E00",
    "snr": "#CC79A7",
    "expected": "#E69F00",
    "l2": "#000000",
}
MARKERS = {"bmrs-n": "o", "bmrs-u-8": "s", "bmrs-u-4": "^", "snr": "D", "expected": "v", "l2": "X"}

_DRAWN = (*CONTESTED, "snr")  # methods that are told how much to remove have no front
_EQUAL = 0.1
_ENOUGH_SEEDS = 3


@dataclass(frozen=True)
class Point:
    """Runs that differ only in their seed.

    Attributes:
        kl_weight: factor of the KL weight.
        compression, accuracy: mean over the seeds, in percent.
        compression_std, accuracy_std: standard deviation over the seeds, 0 for a single one.
        seeds: number of seeds.
    """

    kl_weight: float
    compression: float
    accuracy: float
    compression_std: float
    accuracy_std: float
    seeds: int

    def margin(self, published: tuple[float, float]) -> float:
        """Return by how much the worse of compression and accuracy is above the published one, in percent."""
        return min(self.compression - published[0], self.accuracy - published[1])

    def beats(self, published: tuple[float, float]) -> bool:
        """Whether compression and accuracy are both at or above the published ones."""
        return self.margin(published) >= 0

    def __str__(self) -> str:
        values = (self.compression, self.compression_std), (self.accuracy, self.accuracy_std)
        numbers = [f"{mean:.2f} ± {std:.2f}" if self.seeds > 1 else f"{mean:.2f}" for mean, std in values]
        return f"{numbers[0]} / {numbers[1]}"


@dataclass(frozen=True)
class Verdict:
    """The comparison of a front with a published point.

    Attributes:
        word: ``better`` if a point of the front beats it, ``equal`` if one misses it by no more than 0.1 points of
            compression or accuracy, else ``worse``, or ``not run``.
        point: the point that decides: of those that beat it, if possible with enough seeds, the largest margin.
    """

    word: str
    point: Point | None = None

    def __str__(self) -> str:
        if self.point is None:
            return self.word
        seeds = f"{self.point.seeds} seed{'s' if self.point.seeds > 1 else ''}"
        return f"**{self.word}** {self.point} (KL {self.point.kl_weight:g}, {seeds})"


def fronts(rows: Iterable[Row], protocol: str) -> dict[Cell, list[Point]]:
    """Collect the runs of a protocol into points, by (network, data set, method), weakest KL weight first."""
    mine = where(rows, protocol=protocol)
    return {
        (network, dataset, method): [
            _point(weight, same) for (weight,), same in sorted(grouped(group, ["kl_weight"]).items())
        ]
        for (network, dataset, method), group in grouped(mine, ["network", "dataset", "method"]).items()
    }


def published(cell: Cell) -> tuple[float, float]:
    """Return the poster's compression and accuracy of a cell, in percent."""
    network, dataset, method = cell
    return POSTER[network, method][DATASETS.index(dataset)]


def judged(front: Sequence[Point], reference: tuple[float, float]) -> Verdict:
    """Judge a front against the published compression and accuracy."""
    if not front:
        return Verdict("not run")
    beating = [point for point in front if point.beats(reference)]
    repeated = [point for point in beating if point.seeds >= _ENOUGH_SEEDS]
    nearest = max(repeated or beating or front, key=lambda point: point.margin(reference))
    word = "better" if beating else "equal" if nearest.margin(reference) >= -_EQUAL else "worse"
    return Verdict(word, nearest)


def verdict_table(points: Mapping[Cell, Sequence[Point]]) -> str:
    """Return the numbers of better, equal and worse cells, and a table of all verdicts."""
    verdicts = {
        cell: judged(points.get(cell, ()), published(cell))
        for cell in itertools.product(NETWORKS, DATASETS, CONTESTED)
    }
    count = Counter(verdict.word for verdict in verdicts.values())
    single = sum(
        1 for v in verdicts.values() if v.word == "better" and v.point and v.point.seeds < _ENOUGH_SEEDS
    )
    words = ", ".join(
        f"{count[word]} {word}" for word in ("better", "equal", "worse", "not run") if count[word]
    )
    few = f" Of the better ones {single} rest on fewer than {_ENOUGH_SEEDS} seeds." if single else ""
    rows = []
    for network, dataset in itertools.product(NETWORKS, DATASETS):
        cells = [(network, dataset, method) for method in CONTESTED]
        rows.append(
            [network, dataset, *(f"{verdicts[cell]}; poster {_pair(published(cell))}" for cell in cells)]
        )
    table = markdown_table(f"| network | data | {' | '.join(CONTESTED)} |", rows)
    return f"Of {len(verdicts)} cells: {words}.{few}\n\n{table}"


def default_table(points: Mapping[Cell, Sequence[Point]], weights: Mapping[str, float]) -> str:
    """Return a table of the targets for BMRS_N with the default KL weight beside our results."""
    rows = [
        [network, dataset, f"{point.kl_weight:g}", _pair(asked), *_cells(point, asked, "met")]
        for (network, dataset), asked in ASKED.items()
        for point in points.get((network, dataset, "bmrs-n"), ())
        if point.kl_weight == weights[network]
    ]
    return markdown_table("| network | data | KL weight | asked, at least | ours | seeds | |", rows)


def markdown(points: Mapping[Cell, Sequence[Point]]) -> str:
    """Return a table of all points beside the poster's, with a plain verdict for each."""
    rows = [
        [*cell, _pair(published(cell)), f"{point.kl_weight:g}", *_cells(point, published(cell), "better")]
        for cell, front in sorted(points.items())
        for point in front
    ]
    head = "| network | data | method | poster, compression / accuracy % | KL weight | ours | seeds | |"
    return markdown_table(head, rows)


def plot_fronts(points: Mapping[Cell, Sequence[Point]], weights: Mapping[str, float]) -> Figure:
    """Draw accuracy against compression: our fronts as lines, the poster's points hollow; dotted, nothing pruned."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.subplots(len(NETWORKS), len(DATASETS), squeeze=False)
    for (network, dataset), ax in zip(itertools.product(NETWORKS, DATASETS), grid.flat, strict=True):
        for method in _DRAWN:
            cell, colour, marker = (network, dataset, method), COLOURS[method], MARKERS[method]
            front = points.get(cell, ())
            if front:
                ax.errorbar(
                    [point.compression for point in front],
                    [point.accuracy for point in front],
                    xerr=[point.compression_std for point in front],
                    yerr=[point.accuracy_std for point in front],
                    color=colour,
                    marker=marker,
                    markersize=5,
                    linewidth=1.2,
                )
            for point in front:
                if point.kl_weight == weights[network]:
                    ax.plot(
                        point.compression, point.accuracy, marker, color=colour, ms=8, mec="black", zorder=3
                    )
            if method in CONTESTED:
                # a white rim keeps it visible under lines
                ax.plot(*published(cell), marker, ms=11, mfc="none", mec="white", mew=4, zorder=4)
                ax.plot(*published(cell), marker, ms=11, mfc="none", mec=colour, mew=1.8, zorder=5)
        for point in points.get((network, dataset, "none"), ()):
            ax.axhline(point.accuracy, color="#777777", linestyle=":", linewidth=1)
        ax.set_title(f"{network}, {dataset}", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#000000", alpha=0.1, linewidth=0.5)
    for axes in grid:
        axes[0].set_ylabel("test accuracy [%]")
    for ax in grid[-1]:
        ax.set_xlabel("parameters removed [%]")
    figure.legend(
        handles=[Line2D([], [], color=COLOURS[name], marker=MARKERS[name], label=name) for name in _DRAWN],
        loc="outside lower center",
        ncols=len(_DRAWN),
        frameon=False,
        title="lines: ours, one point per KL weight, black rim: the default; hollow: poster; dotted: ours, unpruned",
    )
    return figure


def _point(weight: float, group: Rows) -> Point:
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


def _pair(point: tuple[float, float]) -> str:
    return f"{point[0]:.2f} / {point[1]:.2f}"


def _cells(point: Point, reference: tuple[float, float], reached: str) -> tuple[str, str, str]:
    """Return a point, its number of seeds, and by what it misses a reference."""
    misses = [
        f"{wanted - value:.2f} less {what}"
        for what, wanted, value in zip(
            ("compression", "accuracy"), reference, (point.compression, point.accuracy), strict=True
        )
        if value < wanted
    ]
    return str(point), str(point.seeds), ", ".join(misses) or reached
