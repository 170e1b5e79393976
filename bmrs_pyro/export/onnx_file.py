"""``.onnx``: a network as a graph that many runtimes run, without PyTorch."""

from __future__ import annotations

__all__ = ["load_onnx", "refuse_without_onnx", "save_onnx", "write_onnx"]

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.export.formats import Format
from bmrs_pyro.export.plain_values import named_inputs, named_tensors, plain_outputs
from bmrs_pyro.export.pt2_file import captured
from bmrs_pyro.export.writing import exporting, refuse_arguments
from bmrs_pyro.network.inputs import Call

_OUTPUT = "output"


def save_onnx(net: nn.Module, x: Any, path: str | Path) -> None:
    """Write a network's graph and weights.

    A single input is called ``input``, several have the names of the network's parameters. A single output tensor is
    called ``output``, several have their names in the network's dict or dataclass, or their numbers in its tuple.

    Args:
        net: the network; put into evaluation mode.
        x: a batch of at least two examples: a tensor, a tuple of several inputs, or a dict of inputs by name.
        path: the file.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        TypeError: ``net`` is no module, ``x`` is no tensor nor a collection of some, or ``path`` is no path.
        ValueError: ``x`` has less than two examples.
        ExportError: the network does not run on ``x``, cannot be captured as a graph, or the graph has no form in ONNX.
        WriteError: the file cannot be written.
    """
    refuse_arguments(net, x, path)
    _installed("onnx")
    _installed("onnxscript")
    with exporting(Format.ONNX, Path(path)):
        write_onnx(net, x, Path(path))


def write_onnx(net: nn.Module, x: Any, path: Path) -> None:
    """Write a network's graph and weights; errors are those of torch."""
    program = captured(net, x)
    with torch.no_grad():
        outputs = plain_outputs(Call.of(net, x).fresh(net))
    # with gradients, attention with a trained bias would be laid out in another way than in the captured graph
    with torch.no_grad(), _silent():
        torch.onnx.export(
            program,
            (),
            path,
            input_names=list(named_inputs(net, x)),
            output_names=[name or _OUTPUT for name, _ in named_tensors(outputs)],
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def load_onnx(path: str | Path) -> Callable[..., Any]:
    """Load a network from a file, to be run by onnxruntime on the CPU.

    Returns:
        A function of the inputs, by position or name. It returns the output tensor, or a dict of several.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    runtime = _installed("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = [one.name for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]

    def run(*args: Tensor, **kwargs: Tensor) -> Any:
        given = {**dict(zip(inputs, args, strict=False)), **kwargs}
        found = session.run(outputs, {name: x.numpy() for name, x in given.items()})
        tensors = [torch.from_numpy(one) for one in found]
        return tensors[0] if outputs == [_OUTPUT] else dict(zip(outputs, tensors, strict=True))

    return run


def refuse_without_onnx() -> None:
    """Raise ImportError unless ONNX files can be written and run."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _installed(name)


@contextmanager
def _silent() -> Iterator[None]:
    """Ignore warnings from inside the exporter, such as of constants that it could not compute beforehand."""
    log = logging.getLogger("onnxscript")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"ONNX files need {name}: pip install 'bmrs-pyro[export]'") from None
