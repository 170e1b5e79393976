"""Files that several processes write: each as a whole, and nothing left of one that was killed."""

from __future__ import annotations

import copy
import errno
import os
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from bmrs_pyro.files import WriteError, append_text, refuse_unwritable, save_tensors, write_atomically
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


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_tensors_and_texts_have_the_permissions_of_any_new_file(tmp_path: Path, umask: None) -> None:
    tensors, text = tmp_path / "tensors.safetensors", tmp_path / "text.json"
    save_tensors(tensors, {"a": torch.zeros(3)}, {})
    write_atomically(text, lambda partial: partial.write_text(""))
    assert mode(tensors) == mode(text) == 0o640
    text.chmod(0o600)  # what somebody has closed stays closed
    write_atomically(text, lambda partial: partial.write_text(""))
    assert mode(text) == 0o600


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for _ in range(2):
        write_atomically(tmp_path / "file", lambda partial: names.append(partial.name))
    assert names[0] != names[1]
    monkeypatch.setattr("bmrs_pyro.files.atomic.secrets.token_hex", lambda _: "guessed")
    write_atomically(tmp_path / "file", lambda partial: names.append(partial.name))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / names[-1]).symlink_to(victim)
    with pytest.raises(WriteError, match="File exists"):
        write_atomically(tmp_path / "file", lambda partial: partial.write_text("mine"))
    assert victim.read_text() == "precious"
    (tmp_path / "log").symlink_to(victim)
    with pytest.raises(WriteError, match=os.strerror(errno.ELOOP)):
        append_text(tmp_path / "log", "mine")
    assert victim.read_text() == "precious"


def test_what_another_machine_writes_is_left_alone_until_it_is_a_day_old(tmp_path: Path) -> None:
    file, dead = tmp_path / "file", 2**22 + 1  # above the largest number of a process
    left = [
        tmp_path / f".file.{machine}{dead}{rest}.partial"
        for machine, rest in (("0123456789ab-", "-cd"), ("", ""))
    ]
    for partial in left:
        partial.write_text("half")
    write_atomically(file, lambda partial: partial.write_text("mine"))
    assert all(partial.exists() for partial in left)
    for partial in left:
        os.utime(partial, (time.time() - 90_000,) * 2)
    write_atomically(file, lambda partial: partial.write_text("mine"))
    assert list(tmp_path.iterdir()) == [file]


def test_an_append_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log"
    append_text(file, "one\n")
    inode = file.stat().st_ino
    append_text(file, "two\n")
    assert file.stat().st_ino == inode  # it grows: nothing is copied

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        append_text(file, "three\n")
    assert file.read_text() == "one\ntwo\n"


def test_what_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("as it was")
    refuse_unwritable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "as it was"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    for path in (tmp_path, tmp_path / "file" / "below", tmp_path / "absent" / "file"):
        with pytest.raises(WriteError, match="cannot be written"):
            refuse_unwritable(path)
