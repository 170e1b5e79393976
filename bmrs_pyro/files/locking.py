"""One process at a time."""

from __future__ import annotations

__all__ = ["BusyError", "alone"]

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bmrs_pyro.files.atomic import WriteError

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class BusyError(ValueError):
    """Another process holds a lock."""


@contextmanager
def alone(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file and delete it afterwards; if this process dies, the system frees the lock.

    A file system without locks causes a warning, and nothing is locked.

    Args:
        path: the lock file.
        wait: whether to wait for another process that holds it.

    Raises:
        BusyError: another process holds it.
        WriteError: the file cannot be created.
    """
    if not path.parent.is_dir():  # FileLock would create the folder
        raise WriteError(path, os.strerror(errno.ENOENT))
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise BusyError(f"another process holds {path}") from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise WriteError(path, error.strerror or str(error)) from None
        warnings.warn(
            f"{path.parent} is on a file system without locks ({error.strerror}); start no second process on it",
            stacklevel=4,
        )
    try:
        yield
    finally:
        # a waiting process notices this and creates the file again; Windows refuses to delete an open file
        if lock.is_locked:
            with suppress(OSError):
                path.unlink()
        lock.release()
