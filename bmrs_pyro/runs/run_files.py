"""The files of a run; a missing, damaged or unfitting file gives a message of one line."""

from __future__ import annotations

__all__ = [
    *("example_of", "example_tensors", "fitting", "missing", "part", "posterior_tensors", "posteriors_of"),
    *("read_json", "read_record", "read_tensors", "remedy", "write_json"),
]

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.files import NewerFormat, load_tensors, seal, unseal, write_atomically
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.runs.errors import RunError

T = TypeVar("T")

_MADE_AGAIN = {"compact.safetensors", "metrics.jsonl", "network.safetensors", "path.json", "reduction.json"}
"""Files that the end of a run makes from the states of its training."""


@contextmanager
def fitting(file: Path) -> Iterator[None]:
    """Turn errors from a readable file of another network into a RunError that names the file."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{file} does not fit the run's network ({reason})") from None


def write_json(file: Path, record: Mapping[str, Any]) -> None:
    """Write a record with its checksum and format version."""
    text = json.dumps(seal(record), indent=1)
    write_atomically(file, lambda partial: partial.write_text(text))


def read_json(file: Path) -> dict[str, Any]:
    """Return a record.

    Raises:
        RunError: the file is missing, damaged or of a newer format.
    """
    try:
        return unseal(file.read_text())
    except FileNotFoundError:
        raise missing(file) from None
    except NewerFormat as error:
        raise RunError(f"{file} cannot be read ({error})") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}){remedy(file)}") from None


def read_record(file: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    """Return a record as an object; arguments and errors as for :func:`read_json`."""
    record = read_json(file)
    try:
        return parse(record)
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}){remedy(file)}") from None


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata.

    Raises:
        RunError: the file is missing, damaged or of a newer format.
    """
    if not file.exists():
        raise missing(file)
    try:
        return load_tensors(file)
    except NewerFormat as error:
        raise RunError(f"{file} cannot be read ({error})") from None
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}){remedy(file)}") from None


def remedy(file: Path) -> str:
    """Return what to do about a damaged file of a run, to be added to a message."""
    if file.name in _MADE_AGAIN:
        return "; delete it, and bmrs fit ... --resume makes it again"
    return "; restore it from a copy, or make a new run"


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors whose keys begin with ``name::``, without that prefix."""
    prefix = f"{name}::"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def posterior_tensors(
    posteriors: Mapping[str, TruncatedLogNormal], keep: KeepMask
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return posteriors as tensors ``loc::SITE`` and ``scale::SITE``, with their bounds and keep masks as metadata."""
    some = next(iter(posteriors.values()))
    tensors: dict[str, Tensor] = {}
    for name, posterior in posteriors.items():
        tensors |= {f"loc::{name}": posterior.loc.cpu(), f"scale::{name}": posterior.scale.cpu()}
    low, high = repr(float(some.low)), repr(float(some.high))
    return tensors, {"low": low, "high": high, "keep": keep.to_json() if keep else ""}


def posteriors_of(tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> dict[str, TruncatedLogNormal]:
    """Return posteriors by site name from what :func:`posterior_tensors` has made."""
    low, high, scale = float(meta["low"]), float(meta["high"]), part(tensors, "scale")
    return {
        name: TruncatedLogNormal(loc, scale[name], low, high) for name, loc in part(tensors, "loc").items()
    }


def example_tensors(example: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of an example as named tensors: one has the empty name, several have their positions."""
    given = {"": example} if isinstance(example, Tensor) else example
    if isinstance(given, tuple):
        given = {str(place): tensor for place, tensor in enumerate(given)}
    return {f"example::{name}": tensor.contiguous() for name, tensor in given.items()}


def example_of(tensors: Mapping[str, Tensor]) -> Any:
    """Return the inputs of an example from named tensors; None if there are no such tensors."""
    found = part(tensors, "example")
    if found and all(name.isdecimal() for name in found):
        return tuple(found[name] for name in sorted(found, key=int))
    return found.get("", found) if found else None


def missing(file: Path) -> RunError:
    """Return the error about a file that a run lacks."""
    if file.name in _MADE_AGAIN:
        return RunError(f"{file} is missing; has the run finished? (bmrs fit ... --resume continues it)")
    return RunError(f"{file} is missing{remedy(file)}")
