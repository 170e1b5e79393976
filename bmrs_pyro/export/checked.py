"""Export a run's small network, and run the file to check that it computes the same outputs."""

from __future__ import annotations

__all__ = ["Export", "export_run"]

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.export.formats import ExportError, Format
from bmrs_pyro.export.onnx_file import load_onnx, refuse_without_onnx, write_onnx
from bmrs_pyro.export.plain_values import named_tensors
from bmrs_pyro.export.pt2_file import load_pt2, write_pt2
from bmrs_pyro.export.writing import exporting
from bmrs_pyro.files import refuse_unwritable
from bmrs_pyro.network.discovery.random_inputs import RandomInputs
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.nested import map_leaves
from bmrs_pyro.network.untouched import runs
from bmrs_pyro.runs import RunDirectory, load, save_portable

TOLERANCE = 1e-4
_BATCHES = (1, 2, 5)  # sizes of the batches that check the file


@dataclass(frozen=True)
class Export:
    """A file that was written and run.

    Attributes:
        path: the file.
        bytes: its size.
        error: largest difference from the small network's outputs, relative to the largest of these, over batches of
            1, 2 and 5 random inputs.
    """

    path: Path
    bytes: int
    error: float


def export_run(run: RunDirectory, kind: Format, path: Path) -> Export:
    """Write a run's small network to a file and check the file by running it.

    Args:
        run: a finished run.
        kind: the file's format.
        path: the file; the network in it takes any batch size.

    Raises:
        ExportError: the folder is missing, the file's suffix names another format, the network cannot be captured, or
            the file computes other outputs; an existing file is unchanged.
        ImportError: a package that ONNX files need is not installed.
        RunError: the run is not finished, or damaged.
        WriteError: the file cannot be written.
    """
    if not path.parent.is_dir():
        raise ExportError(f"{path.parent}, the folder for {path.name}, is no folder; make it first")
    if path.suffix[1:].lower() in set(Format) - {kind}:
        raise ExportError(f"{path} ends in {path.suffix}, but the format is {kind}; make them agree")
    if kind is Format.ONNX:
        refuse_without_onnx()
    refuse_unwritable(path)
    net = run.small()
    inputs = _inputs(net, run.example())
    # in a temporary folder: an ONNX file of more than 1.5 GB refers to a second file beside it by name
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder, path.name)
        with exporting(kind, path):
            if kind is Format.SAFETENSORS:
                save_portable(run, partial)
            else:
                save = write_pt2 if kind is Format.PT2 else write_onnx
                save(net, inputs[1], partial)
            error = _difference(net, _read(kind, partial, run), inputs)
        if not error <= TOLERANCE:
            raise ExportError(
                f"a {kind} file of the network computes outputs that differ by {error:.1e}, more than {TOLERANCE:.0e}"
            )
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the main file last
            file.replace(path.parent / file.name)
    return Export(path, path.stat().st_size, error)


def _inputs(net: nn.Module, example: Any) -> list[Any]:
    """Return batches of random inputs like an example, with padding in its masks."""
    random = torch.Generator().manual_seed(0)
    batches = []
    for size in _BATCHES:
        call = Call.of(net, map_leaves(partial(_repeated, size), example))
        drawn = RandomInputs(call, lambda one: runs(net, one)).draw(0, random).map(_padded)
        batches.append((*drawn.args, drawn.kwargs) if drawn.kwargs else drawn.args)
    return batches


def _repeated(size: int, x: Tensor) -> Tensor:
    return x.expand(size, *x.shape[1:]).clone()


def _padded(x: Tensor) -> Tensor:
    """Mask the last position of every other example, where everything is unmasked."""
    if x.dim() > 1 and not x.is_floating_point() and bool((x == 1).all()):
        x[1::2, ..., -1] = 0
    return x


def _read(kind: Format, path: Path, run: RunDirectory) -> Callable[..., Any]:
    if kind is Format.SAFETENSORS:
        return load(path, run.dense())
    return load_pt2(path) if kind is Format.PT2 else load_onnx(path)


@torch.no_grad()
def _difference(net: nn.Module, other: Callable[..., Any], inputs: list[Any]) -> float:
    errors = []
    for x in inputs:
        call = Call.of(net, x)
        one, two = (dict(named_tensors(call.fresh(predict))) for predict in (net, other))
        errors += [(one[name] - two[name]).abs().max() / one[name].abs().max() for name in one]
    return float(torch.stack(errors).max())  # NaN if one error is NaN, unlike Python's max
