"""Chart and table of a regularisation path."""

from __future__ import annotations

__all__ = ["choice_in_words", "path_content", "plot_path", "share_of", "told"]

import math
from collections.abc import Sequence
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter

from bmrs_pyro.path import PathPoint
from bmrs_pyro.reporting.page import chart
from bmrs_pyro.reporting.plots import KEPT, OTHER, REMOVED, finished, new_axes
from bmrs_pyro.runs import PathRecord
from bmrs_pyro.training.validation import Score


class _Points(Protocol):
    """A path, or a run's record of it."""

    @property
    def dense(self) -> PathPoint: ...

    @property
    def points(self) -> Sequence[PathPoint]: ...


def plot_path(path: _Points, chosen: PathPoint | None = None, ax: Axes | None = None) -> Axes:
    """Draw the validation score of a path's networks against their size, with one standard error.

    Args:
        path: the path, or a run's record of it.
        chosen: the chosen point, after its refit.
        ax: axes to draw into.
    """
    ax = ax or new_axes()
    accurate = path.dense.score.accuracy is not None
    name, error = ("accuracy", "accuracy_error") if accurate else ("log_likelihood", "log_likelihood_error")
    scores = [getattr(point.score, name) for point in path.points]
    errors = [getattr(point.score, error) or 0.0 for point in path.points]
    sizes = [point.parameters for point in path.points]
    # the markers are a separate line, so that the page can find each one
    most = 1.0 if accurate else math.inf
    above = [min(error, most - score) for score, error in zip(scores, errors, strict=True)]
    ax.errorbar(sizes, scores, [errors, above], color=KEPT, linewidth=1, elinewidth=1, label="on the path")
    ax.plot(sizes, scores, "o", color=KEPT, markersize=5, gid="points")
    dense = path.dense
    ax.plot([dense.parameters], [getattr(dense.score, name)], "s", color=OTHER, label="unpruned")
    ax.axhline(getattr(dense.score, name), color=OTHER, linestyle=":", linewidth=1)
    if chosen is not None:
        at = [chosen.parameters], [getattr(chosen.score, name)]
        ax.plot(*at, "D", color=REMOVED, markersize=8, label="chosen")
    ax.set_xscale("log")
    wide = max(*sizes, dense.parameters) > 30 * min(sizes, default=1)
    ax.xaxis.set_major_locator(LogLocator(10, (1,) if wide else (1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 5k and 10k find room beside each other
    if accurate:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    return finished(ax, "parameters left", "validation accuracy" if accurate else "log-likelihood [nats]")


def path_content(path: PathRecord, chosen: PathPoint | None = None) -> dict[str, Any]:
    """Return the page's content about a path: chart, table, the chosen row and the reason, and the pace."""
    accurate = path.dense.score.accuracy is not None
    title = "accuracy" if accurate else "log-likelihood"
    header = [
        "cut" if path.of_cuts else "epoch",
        "parameters",
        *(["accuracy"] if accurate else []),
        "log-likelihood",
        "MACs",
        "structures",
        *([] if path.of_cuts else ["KL weight"]),
        "Σ ΔF",
    ]
    rows = [_row(path, point, str(point.epoch)) for point in path.points]
    spoken = [f"{row[1]} parameters, {title} {row[2]}" for row in rows]
    places = [i for i, point in enumerate(path.points) if chosen is not None and point.epoch == chosen.epoch]
    rows.append(_row(path, path.dense, "unpruned"))
    if chosen is not None:
        rows.append(_row(path, chosen, f"{chosen.epoch}, {'at the end' if path.of_cuts else 'refitted'}"))
    picture = chart(plot_path(path, chosen), f"Validation {title} against size", rows=spoken)
    return {
        **{"chart": picture, "header": header, "rows": rows, "chosen": next(iter(places), None)},
        **{"choice": choice_in_words(path), "pace": path.pace, "of_cuts": path.of_cuts},
    }


def choice_in_words(path: PathRecord) -> list[str]:
    """Return sentences about the target, whether the network meets it, those that missed it, and a caution."""
    if path.target is None:
        return []
    target = path.target
    asked = [
        f"{name} {value}"
        for name, value in vars(target).items()
        if value is not None and (name != "batch_size" or target.max_latency is not None)
    ]
    if target.loses_nothing:
        score = f"{(target.score or 'log_likelihood').replace('_', '-')} is"
        best = "the unpruned network's" if path.of_cuts else "the best"
        if target.score is None and path.dense.score.rmse is not None:
            score = "log-likelihood and RMSE are"
        asked = [f"the smallest network whose {score} within one standard error of {best}"]
    missed = " It was missed." if path.of_cuts else " No network that was refitted meets it."
    words = [f"Asked for: {', '.join(asked)}.{'' if path.met else missed}"]
    if path.times is not None:
        words.append(f"The network takes {path.times}.")
    before = "Reached" if path.of_cuts and not path.met else "Tried before"
    words += [f"{before}: {note}." for note in path.notes]
    return [*words, *([f"Caution: {path.caution}."] if path.caution else [])]


def _row(path: PathRecord, point: PathPoint, name: str) -> tuple[str, ...]:
    delta_f = "" if point.delta_f is None else f"{point.delta_f:,.1f}"
    macs, structures = f"{point.macs:,}", f"{point.size:,}"
    return (
        name,
        f"{point.parameters:,}",
        told(point.score),
        *([] if point.score.accuracy is None else [told(point.score._replace(accuracy=None))]),
        macs,
        structures,
        *([] if path.of_cuts else [f"{point.kl_weight:.3g}"]),
        delta_f,
    )


def told(score: Score, *, bare: bool = False) -> str:
    """Return a score as text: the accuracy, or else the log-likelihood, with its standard error unless ``bare``."""
    if score.accuracy is not None:
        value, error = f"{score.accuracy:.2%}", score.accuracy_error and f"{score.accuracy_error:.2%}"
    else:
        value = f"{score.log_likelihood:.4f}"
        error = score.log_likelihood_error and f"{score.log_likelihood_error:.4f}"
    return value if bare or error is None else f"{value} ± {error}"


def share_of(path: PathRecord, macs: int) -> str:
    """Return a budget of MACs as a share of the unpruned network's."""
    return f"{math.ceil(1e4 * macs / max(path.dense.macs, 1)) / 100:g}%"
