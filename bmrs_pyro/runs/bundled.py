"""The networks that come with the package."""

from __future__ import annotations

__all__ = ["MODELS"]

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED, _CHECKOUT = _PACKAGE / "models", _PACKAGE.parent / "models"
MODELS = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""Folder of these networks' files, such as ``lenet5.py``: in an installed package, or beside it in a checkout."""
