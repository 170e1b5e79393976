"""Files written whole or not at all, and lines added to a file."""

from __future__ import annotations

__all__ = ["WriteError", "append_text", "refuse_unwritable", "write_atomically"]

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

_DAY = 86_400.0  # seconds after which a partial file that nobody has touched is nobody's


class WriteError(OSError):
    """A file cannot be written; one that was there before is as it was.

    Args:
        path: the file.
        reason: such as ``"No space left on device"``.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written ({reason})")
        self.path, self.reason = path, reason
        self.strerror = reason

    def __reduce__(self) -> tuple[type[WriteError], tuple[Path, str]]:
        """Another process gets it as it was made: OSError alone would be made anew from the message."""
        return WriteError, (self.path, self.reason)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, force it to disk and rename it: whole or not at all.

    Several processes may write the same file; it is the last one's. The file gets the permissions of the one that it
    replaces, or those of any new file.

    Raises:
        WriteError: the disk is full, the directory read-only, or the like.
    """
    try:
        partial, mode = _begin(path)
        try:
            _remove_abandoned(path, partial.stat().st_mtime)
            write(partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.chmod(mode)  # safetensors makes a file of its own, for the owner alone
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(path, error.strerror or str(error)) from None
    except SafetensorError as error:  # what the system said comes last, such as: File too large (os error 27)
        raise WriteError(path, str(error).rpartition(": ")[2].partition(" (os error")[0]) from None


def append_text(path: Path, text: str) -> None:
    """Add text to a file, which is made if there is none, and force it to disk.

    A process that is killed meanwhile leaves a beginning of it.

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


def refuse_unwritable(path: Path) -> None:
    """Raise WriteError where :func:`write_atomically` would, before the work is done that it shall keep."""
    if path.is_dir():
        raise WriteError(path, os.strerror(errno.EISDIR))
    try:
        _begin(path)[0].unlink()
    except OSError as error:
        raise WriteError(path, error.strerror or str(error)) from None


def _begin(path: Path) -> tuple[Path, int]:
    """Make a file beside ``path`` under a name that nobody can foresee; return it and the permissions to give it."""
    partial = path.with_name(f".{path.name}.{_here()}-{os.getpid()}-{secrets.token_hex(8)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # O_EXCL follows no link
    mode = os.fstat(descriptor).st_mode
    os.close(descriptor)
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
    return partial, S_IMODE(mode)


def _remove_abandoned(path: Path, now: float) -> None:
    for left in path.parent.glob(f".{escape(path.name)}.*.partial"):
        with suppress(OSError):  # another one's, in a folder of all, or finished meanwhile
            if _writer_is_dead(left) or left.stat().st_mtime < now - _DAY:
                left.unlink()


def _writer_is_dead(partial: Path) -> bool:
    """Whether the process that a file was begun by, and is named after, ran here and was killed."""
    here, _, process = partial.name.split(".")[-2].partition("-")
    process = process.partition("-")[0]
    if here != _here() or os.name != "posix" or not process.isdecimal():
        return False  # elsewhere os.kill kills
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's
    return False


@cache
def _here() -> str:
    """Name what a process's number means something in: this machine since it was started, or this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        names = (boot, os.readlink("/proc/self/ns/pid"))
    except OSError:
        names = (platform.node(), platform.version())
    return hashlib.sha256("".join(names).encode()).hexdigest()[:12]
