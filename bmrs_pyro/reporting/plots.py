"""Figures, as functions that return matplotlib axes."""

from __future__ import annotations

__all__ = ["plot_evidence", "save_figure"]

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from bmrs_pyro.inference import Decision

# Okabe and Ito's palette: told apart by colour-blind readers
KEPT, REMOVED, RULE = "#0072B2", "#D55E00", "#000000"


def plot_evidence(decision: Decision, ax: Axes | None = None) -> Axes:
    """Draw the histogram of the score of all structures, kept and removed, with the decision's threshold.

    Scores span six orders of magnitude, so the axis is linear near the threshold and logarithmic beyond ±1.

    Args:
        decision: a decision, with the score of every structure.
        ax: axes to draw into; by default those of a new figure.
    """
    if ax is None:
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    masks = decision.keep
    kept = _finite([values[masks[name]] for name, values in decision.values.items()])
    removed = _finite([values[~masks[name]] for name, values in decision.values.items()])
    largest = max(map(abs, [*kept, *removed]), default=1.0)
    top = max(math.ceil(math.log10(max(largest, 1.0))), 1)
    decades = torch.logspace(0, top, 8 * top + 1)
    bins = torch.cat([-decades.flip(0), torch.linspace(-1, 1, 17)[1:-1], decades]).tolist()
    ax.hist(
        [kept, removed],
        bins=bins,
        stacked=True,
        color=[KEPT, REMOVED],
        label=[f"kept ({len(kept)})", f"removed ({len(removed)})"],
    )
    ax.axvline(
        decision.threshold, color=RULE, linestyle="--", linewidth=1, label=f"threshold {decision.threshold:g}"
    )
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.7)
    ax.set_xlim(min([*kept, *removed, -1.0]) * 1.5, max([*kept, *removed, 1.0]) * 1.5)
    ax.set_xlabel(f"{decision.quantity} [nats]" if decision.quantity == "ΔF" else decision.quantity)
    ax.set_ylabel("structures")
    ax.set_title(f"{decision.criterion}: evidence for removing each structure")
    ax.legend(loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def save_figure(ax: Axes, path: Path) -> None:
    """Write the figure of axes to a file whose ending gives the format.

    Raises:
        ValueError: the format is unknown or the folder missing.
    """
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ValueError(f"the figure cannot be written to {path} ({error})") from None


def _finite(parts: list[Tensor]) -> list[float]:
    values = torch.cat(parts) if parts else torch.empty(0)
    return values[values.isfinite()].tolist()
