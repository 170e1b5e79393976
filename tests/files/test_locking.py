"""Locks: one process at a time, and none after a process was killed."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from bmrs_pyro.files import BusyError, WriteError, alone
from tests.distributed.processes import FORKS, PATIENCE


def hold(folder: Path) -> None:
    with alone(folder / "lock"):
        (folder / "held").touch()
        time.sleep(PATIENCE)


def test_a_lock_is_held_by_one_process_and_freed_when_it_is_killed(tmp_path: Path) -> None:
    child = FORKS.Process(target=hold, args=(tmp_path,))
    child.start()
    while child.is_alive() and not (tmp_path / "held").exists():
        time.sleep(0.01)
    for _ in range(2):  # a refusal frees nothing
        with pytest.raises(BusyError, match="another process holds"), alone(tmp_path / "lock"):
            pass
    child.kill()
    child.join(PATIENCE)
    with alone(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "lock", tmp_path):
        with pytest.raises(WriteError, match="cannot be written"), alone(path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_has_to_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("bmrs_pyro.files.locking.FileLock.acquire", without)
    done = False
    with pytest.warns(UserWarning, match="file system without locks"), alone(tmp_path / "lock"):
        done = True
    assert done
