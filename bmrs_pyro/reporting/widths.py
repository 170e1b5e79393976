"""The widths of a network's layers before and after pruning."""

from __future__ import annotations

__all__ = ["layer_widths", "plot_layer_widths"]

from collections.abc import Mapping

from matplotlib.axes import Axes
from torch import nn

from bmrs_pyro.network.layers import output_side
from bmrs_pyro.reporting.plots import draw_widths


def layer_widths(net: nn.Module) -> dict[str, int]:
    """Return the number of output channels or neurons of every layer that has them, by layer name."""
    widths = {}
    for name, layer in net.named_modules():
        side = output_side(layer)
        if isinstance(layer, nn.RNNBase):
            widths[name] = layer.hidden_size
        elif side is not None and side.role == "produce":
            widths[name] = side.size
    return widths


def plot_layer_widths(dense: Mapping[str, int], small: Mapping[str, int]) -> Axes:
    """Draw one bar per layer: its width, and the part of it that is kept.

    Args:
        dense: widths of the dense network by layer, from :func:`layer_widths`.
        small: widths of the small network; its layers are among those of the dense network.
    """
    return draw_widths(dense, small, "channels or neurons")
