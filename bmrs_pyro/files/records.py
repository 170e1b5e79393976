"""Parse JSON, and turn JSON objects into dataclasses of checked types."""

from __future__ import annotations

__all__ = ["from_record", "parse_json"]

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def from_record(kind: type[T], record: Mapping[str, Any]) -> T:
    """Make a dataclass from a JSON object; lists become tuples, and a field may be a dataclass itself, or None.

    Raises:
        ValueError: a field is missing, unknown, or has another type than the class declares. A field declared
            ``Any`` takes strings, numbers, booleans and null only.
    """
    hints, values = _hints(kind), {}  # type: ignore[arg-type]  # a class is hashable
    for name, value in record.items():
        if name not in hints:
            raise ValueError(f"the field {name!r} is unknown here")
        hint = hints[name]
        kinds = [part for part in (hint, *get_args(hint)) if isinstance(part, type) and is_dataclass(part)]
        if kinds and isinstance(value, Mapping):
            value = from_record(kinds[0], value)
        values[name] = _without_lists(value)
        if not _fits(values[name], hint):
            raise ValueError(f"{name} is {value!r:.60}, expected {kind.__annotations__[name]}")
    try:
        return kind(**values)
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from None


def _without_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: tuple(one) if isinstance(one, list) else one for key, one in value.items()}
    return tuple(value) if isinstance(value, list) else value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, parts[0]) for one in value)
    if origin is not None:
        return isinstance(value, Mapping) and all(_fits(one, parts[1]) for one in value.values())
    if hint is Any:
        return not isinstance(value, tuple | Mapping)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is (NoneType if hint is None else hint)
