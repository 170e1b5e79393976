"""The state of a training run on disk: one file, replaced whole after every epoch."""

from __future__ import annotations

__all__ = ["Checkpoint", "CheckpointError", "TrainingState", "write_atomically"]

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bmrs_pyro.inference.history import Epoch
from bmrs_pyro.reduction import KeepMask

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A file of a run cannot be read; the message names it and what to do."""


@dataclass(frozen=True)
class TrainingState:
    """All that a continued run needs.

    Attributes:
        keep: what is left, in the numbering of the network as it came.
        epochs: the records so far.
        best: epoch and score of the best weights, None before the first epoch.
        tensors: state dicts by part: ``network``, ``guide``, ``scores``,
            ``optim/<parameter>``, ``best/network``, ``best/guide``.
    """

    keep: KeepMask
    epochs: tuple[Epoch, ...]
    best: tuple[int, float] | None
    tensors: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors file that holds the latest state; nothing in it is pickled.

    Args:
        path: the file; it appears with the first save.
    """

    path: Path

    def load(self) -> TrainingState | None:
        """Return the state, or None where there is no file yet.

        Raises:
            CheckpointError: the file is damaged, not a checkpoint, or of a newer format.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:
                meta = file.metadata() or {}
                version = int(meta["format_version"])
                if version > FORMAT_VERSION:
                    raise CheckpointError(
                        f"{self.path} has format version {version}, this bmrs_pyro reads up to {FORMAT_VERSION}; "
                        "update bmrs_pyro"
                    )
                tensors: dict[str, dict[str, Tensor]] = {part: {} for part in json.loads(meta["parts"])}
                for key in file.keys():  # noqa: SIM118 (the reader is no mapping)
                    part, _, name = key.partition("::")
                    tensors[part][name] = file.get_tensor(key)
            best = json.loads(meta["best"])
            return TrainingState(
                KeepMask.from_json(meta["keep"]),
                tuple(Epoch(**record) for record in json.loads(meta["epochs"])),
                tuple(best) if best is not None else None,
                tensors,
            )
        except CheckpointError:
            raise
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.path} is not a readable checkpoint ({type(error).__name__}: {error}); "
                "delete it to start afresh"
            ) from None

    def save(self, state: TrainingState) -> None:
        """Write the state under a temporary name and rename it over the last one."""
        meta = {
            "format_version": str(FORMAT_VERSION),
            "parts": json.dumps(list(state.tensors)),
            "keep": state.keep.to_json(),
            "epochs": json.dumps([epoch.to_json() for epoch in state.epochs]),
            "best": json.dumps(state.best),
        }
        tensors = {
            f"{part}::{name}": value.detach().cpu().contiguous()
            for part, values in state.tensors.items()
            for name, value in values.items()
        }
        write_atomically(self.path, lambda path: save_file(tensors, path, meta))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, force it to disk and rename it: whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
