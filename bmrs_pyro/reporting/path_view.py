"""A regularisation path as it is shown: chart and table."""

from __future__ import annotations

__all__ = ["path_content", "plot_path"]

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from bmrs_pyro.reporting.page import chart
from bmrs_pyro.reporting.plots import KEPT, OTHER, REMOVED, finished, new_axes
from bmrs_pyro.training import Path, PathPoint


def plot_path(path: Path, chosen: PathPoint | None = None, ax: Axes | None = None) -> Axes:
    """Draw the validation score of a path's networks against their size, with one standard error.

    Args:
        path: the path.
        chosen: the point that was taken, as it is after its refit.
        ax: axes to draw into.
    """
    ax = ax or new_axes()
    accurate = path.dense.score.accuracy is not None
    name, error = ("accuracy", "accuracy_error") if accurate else ("log_likelihood", "log_likelihood_error")
    scores = [getattr(point.score, name) for point in path.points]
    errors = [getattr(point.score, error) or 0.0 for point in path.points]
    sizes = [point.parameters for point in path.points]
    # the markers are a line of their own, so that a page can tell which is which
    ax.errorbar(sizes, scores, errors, color=KEPT, linewidth=1, elinewidth=1, label="on the path")
    ax.plot(sizes, scores, "o", color=KEPT, markersize=5, gid="points")
    dense = path.dense
    ax.plot([dense.parameters], [getattr(dense.score, name)], "s", color=OTHER, label="unpruned")
    ax.axhline(getattr(dense.score, name), color=OTHER, linestyle=":", linewidth=1)
    if chosen is not None:
        at = [chosen.parameters], [getattr(chosen.score, name)]
        ax.plot(*at, "D", color=REMOVED, markersize=8, label="chosen, refitted")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:,.0f}")
    if accurate:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    return finished(ax, "parameters left", "validation accuracy" if accurate else "log-likelihood [nats]")


def path_content(path: Path, chosen: PathPoint | None = None) -> dict[str, Any]:
    """Return what the page shows of a path: chart, table, and the row that was chosen.

    Args:
        path: the path.
        chosen: the point that was taken, as it is after its refit.
    """
    title = "accuracy" if path.dense.score.accuracy is not None else "log-likelihood"
    header = ["epoch", "parameters", title, "MACs", "structures", "KL weight", "Σ ΔF"]
    rows = [_row(point, str(point.epoch)) for point in path.points]
    spoken = [f"{row[1]} parameters, {title} {row[2]}" for row in rows]
    places = [i for i, point in enumerate(path.points) if chosen is not None and point.epoch == chosen.epoch]
    rows.append(_row(path.dense, "unpruned"))
    if chosen is not None:
        rows.append(_row(chosen, f"{chosen.epoch}, refitted"))
    picture = chart(plot_path(path, chosen), f"Validation {title} against size", rows=spoken)
    return {"chart": picture, "header": header, "rows": rows, "chosen": next(iter(places), None)}


def _row(point: PathPoint, name: str) -> tuple[str, ...]:
    score, error = point.score.accuracy, point.score.accuracy_error
    told = f"{score:.2%}" if score is not None else f"{point.score.log_likelihood:.4f}"
    if score is None:
        error = point.score.log_likelihood_error
    if error is not None:
        told += f" ± {error:.2%}" if score is not None else f" ± {error:.4f}"
    delta_f = "" if point.delta_f is None else f"{point.delta_f:,.1f}"
    macs, structures = f"{point.macs:,}", f"{point.size:,}"
    return name, f"{point.parameters:,}", told, macs, structures, f"{point.kl_weight:.3g}", delta_f
