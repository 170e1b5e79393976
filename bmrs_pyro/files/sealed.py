"""Files of a run: written whole, sealed with a checksum, and read back as they were or refused; no pickle."""

from __future__ import annotations

__all__ = [
    "FORMAT_VERSION",
    "NewerFormat",
    "WriteError",
    "load_tensors",
    "save_tensors",
    "seal",
    "unseal",
    "write_atomically",
]

import json
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT_VERSION = 2  # version 1 had no checksums


class NewerFormat(ValueError):
    """A file is of a later version of bmrs_pyro."""


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


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON record with the format's version and a checksum of all of it.

    The checksum is a CRC-32: it finds damage, it does not stop a forger.
    """
    versioned = {"format_version": FORMAT_VERSION, **record}
    return {**versioned, "checksum": _checksum(versioned)}


def unseal(text: str) -> dict[str, Any]:
    """Return the record in a JSON text that :func:`seal` made, without version and checksum.

    Raises:
        NewerFormat: the record is of a newer version.
        ValueError: the text is no such record, or was changed.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got a {type(record).__name__}")
    _check(record, record.pop("checksum", None), record.get("format_version", 1), _checksum)
    record.pop("format_version", None)
    return record


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
    """Write tensors and texts into a sealed safetensors file; tied weights once for each of their names."""
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        plain[key] = value.clone() if storage in storages else value  # safetensors refuses shared storage
        storages.add(storage)
    head = {"format_version": str(FORMAT_VERSION), **meta}
    head["checksum"] = _checksum(head, plain)
    write_atomically(path, lambda partial: save_file(plain, partial, head))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and texts of a file that :func:`save_tensors` wrote.

    Raises:
        NewerFormat: the file is of a newer version.
        ValueError: the file is no safetensors file, or was changed.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the reader is no mapping)
            meta = dict(file.metadata() or {})
    except (SafetensorError, OSError, RuntimeError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    version = int(meta.get("format_version", "1"))
    _check(meta, meta.pop("checksum", None), version, lambda head: _checksum(head, tensors))
    return tensors, meta


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, force it to disk and rename it: whole or not at all.

    Several processes may write the same file; it is the last one's.

    Raises:
        WriteError: the disk is full, the directory read-only, or the like.
    """
    for left in path.parent.glob(f".{escape(path.name)}.*.partial"):
        if _is_abandoned(left):
            with suppress(OSError):  # another one's, in a folder of all
                left.unlink()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            write(partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(path, error.strerror or str(error)) from None
    except SafetensorError as error:  # what the system said comes last
        raise WriteError(path, str(error).rpartition(": ")[2]) from None


def _is_abandoned(partial: Path) -> bool:
    """Whether the process that a file was begun by, and is named after, was killed meanwhile."""
    process = partial.name.split(".")[-2]
    if os.name != "posix" or not process.isdecimal():
        return False  # elsewhere os.kill kills
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # somebody else's
    return False


def _check(
    record: Mapping[str, Any], checksum: object, version: object, compute: Callable[[Mapping[str, Any]], str]
) -> None:
    # the version first: a newer format may have another checksum
    if not isinstance(version, int):
        raise ValueError(f"its format version is {version!r}")
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"it has format version {version}, this bmrs_pyro reads up to {FORMAT_VERSION}; update bmrs_pyro"
        )
    if checksum is None and version > 1:
        raise ValueError("it has no checksum")
    if checksum is not None and checksum != compute(record):
        raise ValueError("its checksum does not fit its content: the file was changed or cut")


def _checksum(record: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> str:
    tensors = tensors or {}
    layout = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in sorted(tensors)]
    crc = zlib.crc32(json.dumps([record, layout], sort_keys=True).encode())
    for name, *_ in layout:
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
