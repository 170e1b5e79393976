"""The state of a training run on disk: one file, which is replaced after every epoch."""

from __future__ import annotations

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "StateStore",
    "TrainingState",
    "layers_of",
    "refuse_no_store",
    "same_run",
]

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bmrs_pyro.files import NewerFormat, load_tensors, parse_json, save_tensors
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.training.history import Epoch, Record


class CheckpointError(ValueError):
    """A file of a run cannot be read; the message names the file and what to do."""


class _OtherRecords(Exception):
    """The epochs' records have other fields."""


@dataclass(frozen=True)
class TrainingState:
    """The state from which a run continues.

    Attributes:
        keep: masks of the remaining structures, numbered as in the original network.
        epochs: the records so far.
        best: epoch and score of the best weights, None before the first epoch.
        tensors: state dicts by part: ``network``, ``guide``, ``likelihood`` (if it is an nn.Module), ``stored``
            (parameters that are only in Pyro's store), each again as ``best/<part>``, ``scores`` and
            ``optim/<parameter>``.
        points: a record of plain JSON types for each cut so far of a trained network.
        settings: what has to be the same when the run continues, as text.
    """

    keep: KeepMask
    epochs: tuple[Any, ...] = field(repr=False)
    best: tuple[int, float] | None
    tensors: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    points: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)

    def refuse_others(self, settings: Mapping[str, str]) -> None:
        """Raise ValueError if the run was started with other settings; states of earlier versions hold none."""
        others = [name for name, value in settings.items() if self.settings.get(name, value) != value]
        if others:
            raise ValueError(f"other {', '.join(others)}")


class StateStore(Protocol):
    """An object that loads a run's state, and saves it after every epoch."""

    def load(self) -> TrainingState | None:
        """Return the state to continue from; None starts a new run."""

    def save(self, state: TrainingState) -> None:
        """Save the state after an epoch."""


def refuse_no_store(checkpoint: object) -> None:
    """Raise TypeError if a checkpoint is a path, or another object that keeps no state."""
    if checkpoint is not None and not (hasattr(checkpoint, "load") and hasattr(checkpoint, "save")):
        raise TypeError(f"checkpoint is a {type(checkpoint).__name__}; give Checkpoint(path)")


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors file that holds the latest state; nothing in it is pickled.

    Args:
        path: the file, which the first save creates.
        record: class of the epochs' records.
    """

    path: Path
    record: type[Record] = Epoch

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    def load(self) -> TrainingState | None:
        """Return the state, or None if there is no file yet.

        Raises:
            CheckpointError: the file is damaged, not a checkpoint, or of a newer format.
        """
        if not self.path.exists():
            return None
        try:
            flat, meta = load_tensors(self.path)
            tensors: dict[str, dict[str, Tensor]] = {part: {} for part in parse_json(meta["parts"])}
            for key, value in flat.items():
                part, _, name = key.partition("::")
                tensors[part][name] = value
            best = parse_json(meta["best"])
            return TrainingState(
                KeepMask.from_json(meta["keep"]),
                tuple(map(self._record, parse_json(meta["epochs"]))),
                tuple(best) if best is not None else None,
                tensors,
                tuple(parse_json(meta.get("points", "[]"))),
                parse_json(meta.get("settings", "{}")),
            )
        except NewerFormat as error:
            raise CheckpointError(f"{self.path} cannot be read ({error})") from None
        except _OtherRecords:
            raise CheckpointError(
                f"{self.path} is not a state of this kind of run, but perhaps of another; give another path"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.path} is not a readable checkpoint ({type(error).__name__}: {error}); "
                "delete it to start afresh"
            ) from None

    def _record(self, values: Mapping[str, Any]) -> Record:
        try:
            return self.record(**values)
        except TypeError:
            raise _OtherRecords from None

    def save(self, state: TrainingState) -> None:
        """Write the state to a temporary file, which then replaces the last state.

        Raises:
            WriteError: the file cannot be written, for instance because the disk is full; the last state is kept.
        """
        meta = {
            "parts": json.dumps(list(state.tensors)),
            "keep": state.keep.to_json(),
            "epochs": json.dumps([epoch.to_json() for epoch in state.epochs]),
            "best": json.dumps(state.best),
            "points": json.dumps(state.points),
            "settings": json.dumps(dict(state.settings)),
        }
        tensors = {
            f"{part}::{name}": value
            for part, values in state.tensors.items()
            for name, value in values.items()
        }
        save_tensors(self.path, tensors, meta)


@contextmanager
def same_run(checkpoint: StateStore) -> Iterator[None]:
    """Raise CheckpointError, with the file's name, if loading a state shows that it is of another run."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, KeyError, IndexError, ValueError) as error:  # other tensors, shapes or settings
        name = checkpoint.path if isinstance(checkpoint, Checkpoint) else "the saved state"
        raise CheckpointError(
            f"{name} is of another run ({' '.join(str(error).split())}); make model and guide anew, as at the start, "
            "or give another path"
        ) from error


def layers_of(net: nn.Module) -> str:
    """Return the names and types of a network's modules, as one text."""
    return " ".join(f"{name}:{type(module).__name__}" for name, module in net.named_modules())
