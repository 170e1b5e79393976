"""Result files: JSON with one run per line, to which later runs are added, and pages made from them."""

from __future__ import annotations

__all__ = ["added", "prepare", "read_rows", "write_page"]

from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

from bmrs_pyro.files import parse_json, refuse_unwritable, write_atomically

_BY_HAND = "<!-- written by hand from here on: the command keeps it -->"


def prepare(file: Path, keys: Sequence[str]) -> None:
    """Make the folder of a result file and check the file before any run, so that no result is lost.

    Raises:
        ValueError: the file does not hold runs with these keys.
        OSError: the folder cannot be made, or the file cannot be read or written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    read_rows(file, keys)
    refuse_unwritable(file)


def added(file: Path, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Add runs to those of a file and return all; a run replaces an earlier run with the same ``keys``.

    Errors are those of :func:`prepare`.
    """
    known = read_rows(file, keys)
    merged = list({tuple(row[key] for key in keys): dict(row) for row in [*known, *rows]}.values())
    _write(file, "[\n" + ",\n".join(map(dumps, merged)) + "\n]\n")
    return merged


def write_page(file: Path, page: str) -> None:
    """Rewrite a page, but keep the text that was written by hand below its last line."""
    text = file.read_text() if file.exists() else ""
    notes = text.partition(_BY_HAND)[2] or "\n"
    _write(file, f"{page}\n{_BY_HAND}{notes}")


def read_rows(file: Path, keys: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the runs of a file, or an empty list if there is no file; arguments and errors as for :func:`prepare`."""
    if not file.exists():
        return []
    try:
        runs = parse_json(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); repair it or move it away") from None
    if not isinstance(runs, list) or not all(
        isinstance(run, dict) and run.keys() >= set(keys) for run in runs
    ):
        raise ValueError(
            f"{file} is not a list of runs with {', '.join(keys)}, so this command cannot add its runs; "
            "move it away or choose another folder"
        )
    return runs


def _write(file: Path, text: str) -> None:
    write_atomically(file, lambda partial: partial.write_text(text))
