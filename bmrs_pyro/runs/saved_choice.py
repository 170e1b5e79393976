"""The chosen network of a path in memory, written to a directory that is not a run."""

from __future__ import annotations

__all__ = ["SMALL", "save_choice"]

from pathlib import Path as FilePath

from bmrs_pyro.files import make_folder, save_tensors
from bmrs_pyro.path import Choice, Path
from bmrs_pyro.runs.path_record import PathRecord
from bmrs_pyro.runs.portable import save
from bmrs_pyro.runs.run_files import posterior_tensors, write_json

SMALL = "small.safetensors"
"""The file of the small network."""


def save_choice(directory: FilePath, path: Path, choice: Choice) -> None:
    """Write a small network, its posteriors, the decision about its structures and the path's record.

    Args:
        directory: the directory, which is created if missing.
        path: the path.
        choice: the choice of a network from the path.

    Raises:
        WriteError: a file cannot be written.
    """
    refit, history = choice.refit, choice.refit.history
    make_folder(directory)
    save_tensors(
        directory / "posteriors.safetensors", *posterior_tensors(refit.guide.posteriors(), history.keep)
    )
    write_json(directory / "reduction.json", path.decision(history).to_json())
    write_json(directory / "path.json", PathRecord.of(path, choice).to_json())
    save(history.network, directory / SMALL)
