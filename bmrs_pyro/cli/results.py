"""Files of results: JSON with one run per line, which later runs are added to, and pages made of them."""

from __future__ import annotations

__all__ = ["added", "prepare", "read_rows", "write_page"]

from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

from bmrs_pyro.files import parse_json, refuse_unwritable, write_atomically

_BY_HAND = "<!-- written by hand from here on: the command keeps it -->"


def prepare(file: Path, keys: Sequence[str]) -> None:
    """Make the folder of a file of runs and read what is there, so that nothing is measured in vain.

    Args:
        file: the file, which need not exist.
        keys: what tells its runs apart.

    Raises:
        ValueError: the file holds something else than such runs.
        OSError: the folder cannot be made, or the file not be read or written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    read_rows(file, keys)
    refuse_unwritable(file)


def added(file: Path, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Add runs to those of a file and return all; one that agrees in ``keys`` with one there takes its place.

    Raises:
        ValueError: the file holds something else than such runs.
        OSError: it cannot be read or written.
    """
    known = read_rows(file, keys)
    merged = list({tuple(row[key] for key in keys): dict(row) for row in [*known, *rows]}.values())
    _write(file, "[\n" + ",\n".join(map(dumps, merged)) + "\n]\n")
    return merged


def write_page(file: Path, page: str) -> None:
    """Write a page anew, but keep what was written by hand below its last line."""
    text = file.read_text() if file.exists() else ""
    notes = text.partition(_BY_HAND)[2] or "\n"
    _write(file, f"{page}\n{_BY_HAND}{notes}")


def read_rows(file: Path, keys: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the runs of a file, none where there is no file; see :func:`prepare` for the rest."""
    if not file.exists():
        return []
    try:
        runs = parse_json(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); mend it or move it away") from None
    if not isinstance(runs, list) or not all(
        isinstance(run, dict) and run.keys() >= set(keys) for run in runs
    ):
        raise ValueError(
            f"{file} is no list of runs with {', '.join(keys)}, which this command's could be added to; "
            "move it away or name another place"
        )
    return runs


def _write(file: Path, text: str) -> None:
    write_atomically(file, lambda partial: partial.write_text(text))
