"""The widths of a network's layers before and after."""

from __future__ import annotations

__all__ = ["layer_widths", "plot_layer_widths"]

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from bmrs_pyro.network.layers import output_side
from bmrs_pyro.reporting.plots import KEPT

_REMOVED = "#D9D9D9"


def layer_widths(net: nn.Module) -> dict[str, int]:
    """Return the number of output channels or neurons of every layer that makes some, by name."""
    sides = ((name, output_side(layer)) for name, layer in net.named_modules())
    return {name: side.size for name, side in sides if side is not None and side.role == "produce"}


def plot_layer_widths(dense: Mapping[str, int], small: Mapping[str, int]) -> Axes:
    """Draw one bar per layer: its width, and what of it is left.

    Args:
        dense: width by layer, from :func:`layer_widths`.
        small: likewise; its layers are among the dense network's.
    """
    figure = Figure(figsize=(7, 1 + 0.22 * len(dense)), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    rows = range(len(dense))
    left = [small.get(name, 0) for name in dense]
    ax.barh(rows, list(dense.values()), color=_REMOVED, label="removed")
    ax.barh(rows, left, color=KEPT, label="kept")
    for row, (width, kept) in enumerate(zip(dense.values(), left, strict=True)):
        ax.annotate(
            f"{kept} of {width}", (width, row), (3, 0), textcoords="offset points", va="center", fontsize=7
        )
    ax.set_yticks(rows, list(dense), fontsize=7, parse_math=False)
    ax.invert_yaxis()
    ax.margins(x=0.15, y=0.01)
    ax.set_xlabel("channels or neurons")
    ax.legend(loc="upper right", bbox_to_anchor=(1, 1.0), ncols=2, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
