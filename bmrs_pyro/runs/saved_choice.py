"""The chosen network of a path in memory, written to a directory that is not a run."""

from __future__ import annotations

__all__ = ["POSTERIORS", "SMALL", "load_posteriors", "save_choice", "stored_posteriors"]

from pathlib import Path as FilePath

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.files import make_folder, save_tensors
from bmrs_pyro.path import Choice, Path
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.runs.errors import RunError
from bmrs_pyro.runs.path_record import PathRecord
from bmrs_pyro.runs.portable import save
from bmrs_pyro.runs.run_files import fitting, posterior_tensors, posteriors_of, read_tensors, write_json

SMALL = "small.safetensors"
"""The file of the small network."""

POSTERIORS = "posteriors.safetensors"
"""The file of the posteriors of its gains."""


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
    save_tensors(directory / POSTERIORS, *posterior_tensors(refit.guide.posteriors(), history.keep))
    write_json(directory / "reduction.json", path.decision(history).to_json())
    write_json(directory / "path.json", PathRecord.of(path, choice).to_json())
    save(history.network, directory / SMALL)


def load_posteriors(directory: str | FilePath) -> dict[str, TruncatedLogNormal]:
    """Return the posteriors of the gains by site name, ``(C_f,)`` each, from a directory.

    Args:
        directory: a directory written by :meth:`Pruned.save`, or a finished run directory.

    Raises:
        RunError: the file with the posteriors is missing, damaged or of a newer format.
    """
    return stored_posteriors(FilePath(directory))[0]


def stored_posteriors(directory: FilePath) -> tuple[dict[str, TruncatedLogNormal], KeepMask | None]:
    """Return the posteriors in a directory, and the masks of their structures in the dense network.

    Arguments and errors as for :func:`load_posteriors`.
    """
    files = [directory / name for name in (POSTERIORS, "network.safetensors")]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise RunError(
            f"{files[0]} is missing; give a directory that result.save() wrote, or that of a finished run"
        )
    tensors, meta = read_tensors(file)
    with fitting(file):
        return posteriors_of(tensors, meta), KeepMask.from_json(meta["keep"]) if meta["keep"] else None
