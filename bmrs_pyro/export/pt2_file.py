"""``.pt2``: a network as a graph that PyTorch runs without its source."""

from __future__ import annotations

__all__ = ["captured", "load_pt2", "save_pt2"]

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram


def captured(net: nn.Module, x: Tensor) -> ExportedProgram:
    """Capture a network's graph in evaluation mode, for batches of any size.

    Args:
        net: the network; put into evaluation mode.
        x: a batch of at least two examples.
    """
    batch = {0: Dim("batch", min=1)}
    with torch.no_grad():
        return torch.export.export(net.eval(), (x,), dynamic_shapes=(batch,))


def save_pt2(net: nn.Module, x: Tensor, path: Path) -> None:
    """Write a network's graph and weights, captured with a batch ``x`` of at least two examples."""
    content = BytesIO()  # torch's own writer would crash the process on a full disk
    torch.export.save(captured(net, x), content)
    path.write_bytes(content.getbuffer())


def load_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    """Load a network from a file that :func:`save_pt2` wrote; running it does not need this package."""
    return torch.export.load(path).module()
