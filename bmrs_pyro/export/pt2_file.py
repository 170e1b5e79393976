"""``.pt2``: a network as a graph that PyTorch runs without its source."""

from __future__ import annotations

__all__ = ["captured", "load_pt2", "save_pt2", "write_pt2"]

import inspect
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bmrs_pyro.export.formats import Format
from bmrs_pyro.export.plain_values import plain_outputs
from bmrs_pyro.export.writing import exporting, refuse_arguments
from bmrs_pyro.network.inputs import Call, batch_size
from bmrs_pyro.network.nested import map_leaves

# torch says this of recurrent layers, whose weights are in a list too; the graph is right all the same
_OWN_WEIGHTS = r"The tensor attributes? (self\.[\w.]*_flat_weights\[\d+\](, )?)+ w\w+ assigned during export"


def captured(net: nn.Module, x: Any) -> ExportedProgram:
    """Capture a network's graph in evaluation mode, for any batch size, from a batch of at least two examples."""
    call, size, batch = Call.of(net, x), batch_size(x), Dim("batch", min=1)

    def dynamic(leaf: Any) -> dict[int, Dim] | None:
        return {0: batch} if isinstance(leaf, Tensor) and leaf.shape[:1] == (size,) else None

    given = inspect.signature(net.forward).bind(*call.args, **call.kwargs).arguments
    shapes = map_leaves(dynamic, dict(given))
    hook = net.register_forward_hook(lambda _module, _inputs, outputs: plain_outputs(outputs))
    try:
        with torch.no_grad(), warnings.catch_warnings(), redirect_stderr(StringIO()) as told:
            warnings.filterwarnings("ignore", _OWN_WEIGHTS)
            program = torch.export.export(net.eval(), call.args, call.kwargs, dynamic_shapes=shapes)
        # after a failure torch prints the whole graph, and the error is enough
        sys.stderr.write(told.getvalue())
        return program
    finally:
        hook.remove()


def save_pt2(net: nn.Module, x: Any, path: str | Path) -> None:
    """Write a network's graph and weights; if the network puts out a dataclass, the graph puts out a dict.

    Args:
        net: the network; put into evaluation mode.
        x: a batch of at least two examples: a tensor, a tuple of several inputs, or a dict of inputs by name.
        path: the file.

    Raises:
        TypeError: ``net`` is no module, ``x`` is no tensor nor a collection of some, or ``path`` is no path.
        ValueError: ``x`` has less than two examples.
        ExportError: the network does not run on ``x``, or torch cannot capture the network as a graph.
        WriteError: the file cannot be written.
    """
    refuse_arguments(net, x, path)
    with exporting(Format.PT2, Path(path)):
        write_pt2(net, x, Path(path))


def write_pt2(net: nn.Module, x: Any, path: Path) -> None:
    """Write a network's graph and weights; errors are those of torch."""
    content = BytesIO()  # torch's own writer would crash the process on a full disk
    torch.export.save(captured(net, x), content)
    path.write_bytes(content.getbuffer())


def load_pt2(path: str | Path) -> Callable[..., Any]:
    """Load a network from a file that :func:`save_pt2` wrote; running it does not need this package."""
    return torch.export.load(path).module()
