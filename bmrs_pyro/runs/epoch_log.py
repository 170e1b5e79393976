"""The records of a run's epochs: one sealed line of JSON each."""

from __future__ import annotations

__all__ = ["EpochLog"]

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bmrs_pyro.files import NewerFormat, append_line, seal, unseal, write_atomically
from bmrs_pyro.training import Epoch


@dataclass(frozen=True)
class EpochLog:
    """A file that grows by a line with every epoch.

    Args:
        path: the file.
    """

    path: Path

    def append(self, record: Epoch) -> None:
        """Add an epoch's record; the first epoch's begins the file anew.

        Raises:
            WriteError: the disk is full, or the like.
        """
        if record.epoch == 1:
            self._write([record])
        else:
            append_line(self.path, _line(record))

    def records(self) -> list[Epoch]:
        """Return the records; a last line that is not finished is left out, for it is being written, or was cut.

        Raises:
            NewerFormat: the file is of a newer version.
            ValueError: it is damaged.
            OSError: it cannot be read.
        """
        lines = self.path.read_text().split("\n")[:-1]
        try:
            records = [Epoch(**unseal(line)) for line in lines]
        except TypeError as error:
            raise ValueError(str(error)) from None
        numbers = [record.epoch for record in records]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"it is damaged: its epochs are numbered {numbers}")
        return records

    def mend(self, epochs: Iterable[Epoch]) -> None:
        """Make the file say what a run's state says, if it is behind it, ahead of it or damaged.

        Raises:
            NewerFormat: the file is of a newer version.
            WriteError: it cannot be written.
        """
        right = list(epochs)
        try:
            if self.records() == right:
                return
        except NewerFormat:
            raise
        except (OSError, ValueError):
            pass
        self._write(right)

    def _write(self, records: Iterable[Epoch]) -> None:
        lines = "".join(f"{_line(record)}\n" for record in records)
        write_atomically(self.path, lambda file: file.write_text(lines))


def _line(record: Epoch) -> str:
    return json.dumps(seal(record.to_json()))
