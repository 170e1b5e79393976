"""Files of a run with a checksum: written completely or not at all, and refused if they were changed; no pickle."""

from __future__ import annotations

__all__ = [
    "FORMAT_VERSION",
    "NewerFormat",
    "load_tensors",
    "save_tensors",
    "seal",
    "unseal",
]

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bmrs_pyro.files.atomic import write_atomically
from bmrs_pyro.files.records import parse_json

FORMAT_VERSION = 2  # version 1 had no checksums, and is not read any more


class NewerFormat(ValueError):
    """A file was written by a later version of bmrs_pyro."""


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add the format version and a checksum to a JSON record.

    The checksum is a CRC-32: it finds damage, it does not stop a forger.
    """
    versioned = {"format_version": FORMAT_VERSION, **record}
    return {**versioned, "checksum": _checksum(versioned)}


def unseal(text: str) -> dict[str, Any]:
    """Check a JSON text made by :func:`seal`, and return its record without version and checksum.

    Raises:
        NewerFormat: the record has a newer version.
        ValueError: the text is no such record, has version 1, or was changed.
    """
    record = parse_json(text)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got a {type(record).__name__}")
    try:
        _check(record, record.pop("checksum", None), record.get("format_version", 1), _checksum)
    except RecursionError:  # json.dumps allows slightly less nesting than json.loads
        raise ValueError("its JSON is nested too deeply") from None
    record.pop("format_version", None)
    return record


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
    """Write tensors and metadata to a safetensors file with a checksum; tied weights are written once per name."""
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
    """Return the tensors and the metadata of a file that :func:`save_tensors` wrote.

    Raises:
        NewerFormat: the file has a newer version.
        ValueError: the file is no safetensors file, has version 1, or was changed.
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
    if version < FORMAT_VERSION or checksum is None:
        raise ValueError("it has no checksum, like all files of earlier versions; create it again")
    if checksum != compute(record):
        raise ValueError("its checksum does not match its content: the file was changed or cut")


def _checksum(record: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> str:
    tensors = tensors or {}
    layout = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in sorted(tensors)]
    crc = zlib.crc32(json.dumps([record, layout], sort_keys=True).encode())
    for name, *_ in layout:
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
