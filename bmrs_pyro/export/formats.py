"""The formats that a network is exported to."""

from __future__ import annotations

__all__ = ["ExportError", "Format"]

from enum import StrEnum
from pathlib import Path


class ExportError(ValueError):
    """A network cannot be exported; the message says to which format, why, and what to do."""


class Format(StrEnum):
    """A file format."""

    PT2 = "pt2"
    """Graph and weights for ``torch.export.load``."""
    ONNX = "onnx"
    """Graph and weights for ONNX runtimes."""
    SAFETENSORS = "safetensors"
    """Weights, and how to rebuild the network from its source, for :func:`bmrs_pyro.load`."""

    @classmethod
    def of(cls, path: Path) -> Format:
        """Return the format that a file's suffix names.

        Raises:
            ExportError: the suffix names no format.
        """
        try:
            return cls(path.suffix[1:].lower())
        except ValueError:
            raise ExportError(
                f"the suffix of {path} names no format; end it in .{', .'.join(cls)}, or name the format (--format)"
            ) from None
