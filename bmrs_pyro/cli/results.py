"""Files of results: JSON with one run per line, which later runs are added to, and pages made of them."""

from __future__ import annotations

__all__ = ["added", "write_page"]

from collections.abc import Mapping, Sequence
from json import dumps, loads
from pathlib import Path
from typing import Any

from bmrs_pyro.inference import write_atomically

_BY_HAND = "<!-- written by hand from here on: the command keeps it -->"


def added(file: Path, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Add runs to those of a file and return all; one that agrees in ``keys`` with one there takes its place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = loads(file.read_text()) if file.exists() else []
    merged = list({tuple(row[key] for key in keys): dict(row) for row in [*known, *rows]}.values())
    _write(file, "[\n" + ",\n".join(map(dumps, merged)) + "\n]\n")
    return merged


def write_page(file: Path, page: str) -> None:
    """Write a page anew, but keep what was written by hand below its last line."""
    text = file.read_text() if file.exists() else ""
    notes = text.partition(_BY_HAND)[2] or "\n"
    _write(file, f"{page}\n{_BY_HAND}{notes}")


def _write(file: Path, text: str) -> None:
    write_atomically(file, lambda partial: partial.write_text(text))
