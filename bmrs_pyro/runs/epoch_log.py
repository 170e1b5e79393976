"""The records of a run's epochs: one line of JSON with a checksum for each epoch."""

from __future__ import annotations

__all__ = ["EpochLog"]

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bmrs_pyro.files import NewerFormat, append_text, seal, unseal, write_atomically
from bmrs_pyro.runs.errors import RunError
from bmrs_pyro.runs.run_files import missing, remedy
from bmrs_pyro.training import Epoch


@dataclass(frozen=True)
class EpochLog:
    """A file with one line per epoch."""

    path: Path

    def append(self, record: Epoch) -> None:
        """Add an epoch's record; it replaces the records of that epoch and of all later ones.

        Raises:
            RunError: the file is damaged.
            WriteError: the file cannot be written, for instance because the disk is full.
        """
        known = self.records() if record.epoch > 1 else []
        if record.epoch == len(known) + 1 > 1:
            append_text(self.path, _text([record]))
        else:
            self._write(_text([*known[: record.epoch - 1], record]))

    def records(self) -> list[Epoch]:
        """Return the records; an incomplete last line is ignored, since it is still being written or was cut off.

        Raises:
            RunError: the file is missing, damaged or of a newer version.
        """
        try:
            return self._read()
        except FileNotFoundError:
            raise missing(self.path) from None
        except NewerFormat as error:
            raise RunError(f"{self.path} cannot be read ({error})") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path} cannot be read ({error}){remedy(self.path)}") from None

    def mend(self, epochs: Iterable[Epoch]) -> None:
        """Rewrite the file if it is damaged or its epochs differ from these, which come from a run's state.

        Raises:
            RunError: a newer version of the library wrote the file.
            WriteError: the file cannot be written.
        """
        text = _text(epochs)
        try:
            self._read()
            if self.path.read_text() == text:
                return
        except NewerFormat as error:
            raise RunError(f"{self.path} cannot be read ({error})") from None
        except (OSError, ValueError):
            pass
        self._write(text)

    def _read(self) -> list[Epoch]:
        *lines, rest = self.path.read_text().split("\n")
        records = [_record(line) for line in lines]
        try:
            records += [_record(rest)] if rest else []
        except NewerFormat:
            raise
        except ValueError:
            pass
        numbers = [record.epoch for record in records]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"it is damaged: its epochs are numbered {numbers}")
        return records

    def _write(self, text: str) -> None:
        write_atomically(self.path, lambda file: file.write_text(text))


def _record(line: str) -> Epoch:
    try:
        return Epoch(**unseal(line))
    except TypeError as error:
        raise ValueError(str(error)) from None


def _text(records: Iterable[Epoch]) -> str:
    return "".join(f"{json.dumps(seal(record.to_json()))}\n" for record in records)
