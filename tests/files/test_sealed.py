"""Files that several processes write: each as a whole, and nothing left of one that was killed."""

from __future__ import annotations

import copy
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from bmrs_pyro.files import WriteError, write_atomically
from tests.distributed.processes import FORKS, PATIENCE


def write_slowly(file: Path) -> None:
    def write(partial: Path) -> None:
        partial.write_text("child")
        while not (file.parent / "go").exists():
            time.sleep(0.01)

    write_atomically(file, write)


def in_the_middle_of(file: Path) -> BaseProcess:
    """Start a process that writes the file, and return when it has begun."""
    child = FORKS.Process(target=write_slowly, args=(file,))
    child.start()
    while child.is_alive() and not list(file.parent.iterdir()):
        time.sleep(0.01)
    return child


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    child = in_the_middle_of(file)
    write_atomically(file, lambda partial: partial.write_text("parent"))
    assert file.read_text() == "parent"
    (tmp_path / "go").touch()
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert file.read_text() == "child"


def test_what_a_killed_process_began_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "file[1].json"
    child = in_the_middle_of(file)
    child.kill()
    child.join(PATIENCE)
    assert len(list(tmp_path.iterdir())) == 1
    write_atomically(file, lambda partial: partial.write_text("parent"))
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_error_reaches_another_process_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"absent/file cannot be written \(No such file") as caught:
        write_atomically(tmp_path / "absent" / "file", lambda partial: partial.write_text(""))
    there = copy.copy(caught.value)  # by what pickle goes by
    assert isinstance(there, WriteError)
    assert (str(there), there.strerror) == (str(caught.value), caught.value.strerror)
