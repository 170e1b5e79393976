"""The error of a run directory."""

from __future__ import annotations

__all__ = ["RunError"]


class RunError(ValueError):
    """A run directory cannot be used; the message names the file and what to do."""
