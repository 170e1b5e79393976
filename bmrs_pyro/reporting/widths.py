"""The widths of a network's layers before and after."""

from __future__ import annotations

__all__ = ["layer_widths", "plot_layer_widths"]

from collections.abc import Mapping

from matplotlib.axes import Axes
from torch import nn

from bmrs_pyro.network.layers import output_side
from bmrs_pyro.reporting.plots import draw_widths


def layer_widths(net: nn.Module) -> dict[str, int]:
    """Return the number of output channels or neurons of every layer that makes some, by name."""
    widths = {}
    for name, layer in net.named_modules():
        side = output_side(layer)
        if isinstance(layer, nn.RNNBase):
            widths[name] = layer.hidden_size
        elif side is not None and side.role == "produce":
            widths[name] = side.size
    return widths


def plot_layer_widths(dense: Mapping[str, int], small: Mapping[str, int]) -> Axes:
    """Draw one bar per layer: its width, and what of it is left.

    Args:
        dense: width by layer, from :func:`layer_widths`.
        small: likewise; its layers are among the dense network's.
    """
    return draw_widths(dense, small, "channels or neurons")
