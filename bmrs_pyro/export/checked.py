"""Export a run's small network, and run the file to check that it computes the same outputs."""

from __future__ import annotations

__all__ = ["Export", "export_run"]

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from bmrs_pyro.export.formats import ExportError, Format
from bmrs_pyro.export.onnx_file import load_onnx, refuse_without_onnx, save_onnx
from bmrs_pyro.export.pt2_file import load_pt2, save_pt2
from bmrs_pyro.files import WriteError, refuse_unwritable
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
    inputs = _inputs(run)
    # in a temporary folder: an ONNX file of more than 1.5 GB refers to a second file beside it by name
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder, path.name)
        try:
            if kind is Format.SAFETENSORS:
                save_portable(run, partial)
            else:
                save = save_pt2 if kind is Format.PT2 else save_onnx
                save(net, inputs[1], partial)
            error = _difference(net, _read(kind, partial, run), inputs)
        except ImportError:
            raise
        except OSError as cause:
            raise WriteError(path, cause.strerror or str(cause)) from None
        except Exception as cause:
            reason = next(iter(str(cause).splitlines()), "")
            raise ExportError(
                f"the network cannot be exported to {kind} ({type(cause).__name__}: {reason}); safetensors always works"
            ) from cause
        if not error <= TOLERANCE:
            raise ExportError(
                f"a {kind} file of the network computes outputs that differ by {error:.1e}, more than {TOLERANCE:.0e}"
            )
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the main file last
            file.replace(path.parent / file.name)
    return Export(path, path.stat().st_size, error)


def _inputs(run: RunDirectory) -> list[Tensor]:
    """Return batches of random inputs; tokens are drawn from those up to the largest of the run's example."""
    random, example = torch.Generator().manual_seed(0), run.example()
    if not isinstance(example, Tensor):
        raise ExportError(f"the network reads {', '.join(example)}, and only those of one input are exported")
    shapes = [(size, *example.shape[1:]) for size in _BATCHES]
    if example.is_floating_point():
        return [torch.randn(shape, generator=random) for shape in shapes]
    return [torch.randint(int(example.max()) + 1, shape, generator=random) for shape in shapes]


def _read(kind: Format, path: Path, run: RunDirectory) -> Callable[[Tensor], Tensor]:
    if kind is Format.SAFETENSORS:
        return load(path, run.dense())
    return load_pt2(path) if kind is Format.PT2 else load_onnx(path)


@torch.no_grad()
def _difference(net: nn.Module, other: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> float:
    pairs = [(net(x), other(x)) for x in inputs]
    errors = torch.stack([(one - two).abs().max() / one.abs().max() for one, two in pairs])
    return float(errors.max())  # NaN if one error is NaN, unlike Python's max
