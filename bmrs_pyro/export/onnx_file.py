"""``.onnx``: a network as a graph that many runtimes run, without PyTorch."""

from __future__ import annotations

__all__ = ["load_onnx", "refuse_without_onnx", "save_onnx"]

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.export.pt2_file import captured

_INPUT, _OUTPUT = "input", "output"


def save_onnx(net: nn.Module, x: Tensor, path: Path) -> None:
    """Write a network's graph and weights, captured with a batch ``x`` of at least two examples.

    The file has one input, ``input``, and one output, ``output``, whose first dimension is the batch.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    _installed("onnx")
    _installed("onnxscript")
    program = captured(net, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings from inside the exporter
        torch.onnx.export(
            program,
            (),
            path,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Load a network from a file, to be run by onnxruntime on the CPU.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    runtime = _installed("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run([_OUTPUT], {_INPUT: x.numpy()})[0])


def refuse_without_onnx() -> None:
    """Raise ImportError unless ONNX files can be written and run."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _installed(name)


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"ONNX files need {name}: pip install 'bmrs-pyro[export]'") from None
