"""The store of the states along a path: in memory, or one file for each state."""

from __future__ import annotations

__all__ = ["Resumed", "Shelf"]

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bmrs_pyro.files import make_folder, seal, unseal, write_atomically
from bmrs_pyro.training.checkpoint import Checkpoint, TrainingState
from bmrs_pyro.training.limits import Limits

ALIKE = 0.98
"""Of two states in a row, only the better one is kept if the later one has more than this share of the structures."""

_NOTES = "notes.json"
"""Name of the file of what was measured."""


@dataclass
class Shelf:
    """The states of a path by epoch, as a state store of :func:`fit`.

    Args:
        directory: folder of the files ``epoch-0007.safetensors``; None keeps the states in memory, on the CPU.
    """

    directory: Path | None = None
    states: dict[int, TrainingState] = field(default_factory=dict)
    noted: dict[str, Any] = field(default_factory=dict)

    def load(self) -> TrainingState | None:
        """Return the last state; None if there is none."""
        last = max(self.epochs(), default=None)
        return None if last is None else self[last]

    def save(self, state: TrainingState) -> None:
        """Save a state; of the two before it, drop the one with the worse score if they have about as many structures.

        The last state is always kept, to go on from.
        """
        epoch = len(state.epochs)
        before = [each for each in self.epochs() if each != epoch][-2:]
        state = _without_best(state)
        if self.directory is None:
            self.states[epoch] = state
        else:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file(epoch).save(state)
        earlier = [state.epochs[each - 1] for each in before]
        if len(earlier) == 2 and earlier[1].size > ALIKE * earlier[0].size:
            self._drop(before[0] if earlier[1].validation_score >= earlier[0].validation_score else before[1])

    def epochs(self) -> list[int]:
        """Return the epochs of the saved states, in order."""
        if self.directory is None:
            return sorted(self.states)
        return sorted(
            int(path.stem.rpartition("-")[2]) for path in self.directory.glob("epoch-*.safetensors")
        )

    def __getitem__(self, epoch: int) -> TrainingState:
        if self.directory is None:
            return self.states[epoch]
        state = self._file(epoch).load()
        if state is None:
            raise KeyError(epoch)
        return state

    def refitted(self, epoch: int, epochs: int, limits: Limits) -> Resumed:
        """Return the state store of a refit from an epoch; its file is, for instance, ``refit-0007-12.safetensors``."""
        file = None
        if self.directory is not None:
            budgets = f"-{limits.max_macs}-{limits.max_parameters}" if limits != Limits() else ""
            file = Checkpoint(self.directory / f"refit-{epoch:04}-{epochs}{budgets}.safetensors")
        return Resumed(self[epoch], file)

    def reduction(self, macs: int, limits: Limits) -> Checkpoint | None:
        """Return the file of a reduction of a trained network; None if states are kept in memory."""
        if self.directory is None:
            return None
        self.directory.mkdir(parents=True, exist_ok=True)
        budgets = f"{limits.max_macs}-{limits.max_parameters}-{limits.round_to}"
        return Checkpoint(self.directory / f"reduced-{macs}-{budgets}.safetensors")

    def notes(self) -> dict[str, Any]:
        """Return what was noted.

        Raises:
            ValueError: the file cannot be read.
        """
        file = None if self.directory is None else self.directory / _NOTES
        if file is None or not file.exists():
            return dict(self.noted)
        try:
            return unseal(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{file} cannot be read ({error}): delete it; then latencies are measured again, which may start "
                "another reduction"
            ) from None

    def note(self, name: str, value: Any) -> None:
        """Note a value of plain JSON types, such as what was measured.

        Raises:
            WriteError: the file cannot be written.
        """
        known = {**self.notes(), name: value}
        if self.directory is None:
            self.noted = known
        else:
            make_folder(self.directory)
            text = json.dumps(seal(known), indent=1)
            write_atomically(
                self.directory / _NOTES, lambda partial: partial.write_text(text, encoding="utf-8")
            )

    def reduces(self) -> bool:
        """Whether a reduction of a trained network was begun in the directory."""
        return self.directory is not None and any(self.directory.glob("reduced-*"))

    def _drop(self, epoch: int) -> None:
        if self.directory is None:
            del self.states[epoch]
        else:
            self._file(epoch).path.unlink(missing_ok=True)

    def _file(self, epoch: int) -> Checkpoint:
        assert self.directory is not None
        return Checkpoint(self.directory / f"epoch-{epoch:04}.safetensors")


@dataclass(frozen=True)
class Resumed:
    """A state store of :func:`fit` that starts from a given state.

    Args:
        state: the state to start from.
        kept: checkpoint of later states; an existing one is continued. None saves nothing.
    """

    state: TrainingState
    kept: Checkpoint | None = None

    def load(self) -> TrainingState:
        """Return the state to continue from."""
        known = None if self.kept is None else self.kept.load()
        return self.state if known is None else known

    def save(self, state: TrainingState) -> None:
        """Save the state after an epoch."""
        if self.kept is not None:
            self.kept.save(state)


def _without_best(state: TrainingState) -> TrainingState:
    """Drop the best epoch's weights, which a path does not use, and move the other tensors to the CPU."""
    tensors = {
        part: {name: value.cpu() for name, value in values.items()}
        for part, values in state.tensors.items()
        if not part.startswith("best/")
    }
    return replace(state, best=None, tensors=tensors)
