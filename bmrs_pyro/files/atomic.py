"""Files written whole or not at all, and lines added to a file."""

from __future__ import annotations

__all__ = ["WriteError", "append_text", "make_folder", "refuse_unwritable", "write_atomically"]

import errno
import hashlib
import os
import platform
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from glob import escape
from pathlib import Path
from stat import S_IMODE

from safetensors import SafetensorError

_DAY = 86_400.0  # seconds; a partial file that is untouched for longer is abandoned


class WriteError(OSError):
    """A file cannot be written; an existing file of that name is unchanged.

    Args:
        path: the file.
        reason: such as ``"No space left on device"``.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written ({reason})")
        self.path, self.reason = path, reason
        self.strerror = reason

    def __reduce__(self) -> tuple[type[WriteError], tuple[Path, str]]:
        """Pickle the arguments, for other processes: by default OSError is rebuilt from its message alone."""
        return WriteError, (self.path, self.reason)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file completely or not at all: ``write`` fills a temporary file, which is flushed and renamed.

    Several processes may write the same file; the last one wins. The file gets the permissions of the file it
    replaces, or the default permissions of a new file.

    Raises:
        WriteError: the disk is full, the directory read-only, or the like.
    """
    try:
        partial, mode = _create_partial(path)
        try:
            _remove_abandoned(path, partial.stat().st_mtime)
            write(partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.chmod(mode)  # safetensors creates its own file, for the owner only
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(path, error.strerror or str(error)) from None
    except SafetensorError as error:  # the system's message comes last, such as: File too large (os error 27)
        raise WriteError(path, str(error).rpartition(": ")[2].partition(" (os error")[0]) from None


def append_text(path: Path, text: str) -> None:
    """Append text to a file and flush it to disk; create the file if it does not exist.

    If the process is killed meanwhile, the file may end in the first part of the text.

    Raises:
        WriteError: the disk is full, the directory read-only, or the like.
    """
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(path, flags, 0o666), "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                left = text.encode()
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise WriteError(path, error.strerror or str(error)) from None


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, if it does not exist; return it.

    Raises:
        WriteError: a file has its name, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise WriteError(path, "it is a file, where a folder is needed") from None
    except OSError as error:
        raise WriteError(path, str(error.strerror)) from None
    return path


def refuse_unwritable(path: Path) -> None:
    """Raise WriteError now if :func:`write_atomically` would fail later, after the work is done."""
    if path.is_dir():
        raise WriteError(path, os.strerror(errno.EISDIR))
    try:
        _create_partial(path)[0].unlink()
    except OSError as error:
        raise WriteError(path, error.strerror or str(error)) from None


def _create_partial(path: Path) -> tuple[Path, int]:
    """Create an empty file with a random name beside ``path``; return it and the permissions of the final file."""
    partial = path.with_name(f".{path.name}.{_process_space()}-{os.getpid()}-{secrets.token_hex(8)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # O_EXCL follows no link
    mode = os.fstat(descriptor).st_mode
    os.close(descriptor)
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
    return partial, S_IMODE(mode)


def _remove_abandoned(path: Path, now: float) -> None:
    for left in path.parent.glob(f".{escape(path.name)}.*.partial"):
        with suppress(OSError):  # another user's file in a shared folder, or renamed meanwhile
            if _writer_is_dead(left) or left.stat().st_mtime < now - _DAY:
                left.unlink()


def _writer_is_dead(partial: Path) -> bool:
    """Whether the process named in a partial file's name ran on this machine and is dead."""
    space, _, process = partial.name.split(".")[-2].partition("-")
    process = process.partition("-")[0]
    if space != _process_space() or os.name != "posix" or not process.isdecimal():
        return False  # on Windows os.kill would end the process
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives and belongs to another user
    return False


@cache
def _process_space() -> str:
    """Return an id of the space in which process ids are unique: this boot of the machine, or this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        names = (boot, os.readlink("/proc/self/ns/pid"))
    except OSError:
        names = (platform.node(), platform.version())
    return hashlib.sha256("".join(names).encode()).hexdigest()[:12]
