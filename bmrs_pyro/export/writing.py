"""What is refused before a file is written, and the errors while it is written."""

from __future__ import annotations

__all__ = ["exporting", "refuse_arguments"]

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.export.formats import ExportError, Format
from bmrs_pyro.files import WriteError, refuse_unwritable
from bmrs_pyro.network.inputs import Call, batch_size
from bmrs_pyro.network.nested import tensors_in


def refuse_arguments(net: Any, x: Any, path: Any) -> None:
    """Refuse what is no network, a batch that it does not run on, or no path that can be written.

    Raises:
        TypeError: ``net`` is no module, ``x`` is no tensor nor a collection of some, or ``path`` is no path.
        ValueError: ``x`` has less than two examples.
        ExportError: the network does not run on ``x``.
        WriteError: the file cannot be written.
    """
    for name, value, kind in (("net", net, nn.Module), ("path", path, str | PathLike)):
        if not isinstance(value, kind):
            raise TypeError(
                f"{name} is a {type(value).__name__}; give the network first, then a batch, then the file"
            )
    if isinstance(x, tuple | list | Mapping) and x and not tensors_in(x):
        raise TypeError("x holds no tensor; give a batch of tensors, such as torch.tensor(x)")
    if not isinstance(x, Tensor | tuple | list | Mapping):
        raise TypeError(f"x is a {type(x).__name__}; give a batch of tensors, as the network is called with")
    if (size := batch_size(x) or 0) < 2:
        raise ValueError(
            f"number of examples in x: {size}; give a batch of at least two, so that the file takes any batch size"
        )
    call = Call.of(net, x)
    try:
        with torch.no_grad():
            call.fresh(net.eval())
    except Exception as cause:
        reason = next(iter(str(cause).splitlines()), "")
        raise ExportError(
            f"the network cannot be exported to a file: it does not run on x, {call} ({type(cause).__name__}: "
            f"{reason}); give a batch as the network is called with"
        ) from cause
    refuse_unwritable(Path(path))


@contextmanager
def exporting(kind: Format, path: Path) -> Iterator[None]:
    """Turn errors while a file is written and read into :class:`ExportError` or :class:`WriteError`."""
    try:
        yield
    except ImportError:
        raise
    except OSError as cause:
        raise WriteError(path, cause.strerror or str(cause)) from None
    except Exception as cause:
        reason = re.sub(r"\x1b\[[\d;]*m", "", next(iter(str(cause).splitlines()), ""))  # without colours
        raise ExportError(
            f"the network cannot be exported to {kind} ({type(cause).__name__}: {reason}); safetensors always works"
        ) from cause
