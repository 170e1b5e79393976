"""JSON that is no record, or one of other types, is refused by a ValueError."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from bmrs_pyro.files import from_record, parse_json, unseal
from bmrs_pyro.reduction import KeepMask

DEPTHS = [*range(100, 1100, 50), 100_000]


@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_deep_nesting_is_refused_at_any_depth(brackets: str) -> None:
    start, end = brackets[:-1], brackets[-1]
    refused = 0
    for depth in DEPTHS:
        nested = start * depth + "1" + end * depth
        for text in (nested, f'{{"format_version": 2, "checksum": "0", "a": {nested}}}'):
            with pytest.raises(ValueError, match=r"nested too deeply|checksum|expected a JSON object"):
                unseal(text)
        with pytest.raises(ValueError, match="not the JSON of a KeepMask"):
            KeepMask.from_json(nested)
        try:
            parse_json(nested)
        except ValueError as error:
            refused += str(error) == "its JSON is nested too deeply"
    assert refused


@dataclass(frozen=True)
class Kind:
    name: str
    shape: tuple[int, ...]
    rate: float
    on: bool = False
    most: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


RIGHT: dict[str, Any] = {"name": "a", "shape": [1, 2], "rate": 0.5}


def test_a_record_of_the_declared_types_is_taken() -> None:
    assert from_record(Kind, RIGHT) == Kind("a", (1, 2), 0.5)
    more = {"rate": 1, "on": True, "most": 3, "versions": {"torch": "2"}}
    assert from_record(Kind, RIGHT | more) == Kind("a", (1, 2), 1, True, 3, {"torch": "2"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 1},
        {"shape": ["touch", "X"]},
        {"shape": [1, True]},
        {"shape": [1, [2]]},
        {"shape": "12"},
        {"rate": "1"},
        {"rate": None},
        {"rate": True},
        {"on": 1},
        {"most": 1.5},
        {"versions": {"torch": 2}},
        {"versions": []},
        {"other": 1},
    ],
)
def test_other_types_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        from_record(Kind, RIGHT | wrong)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="rate"):
        from_record(Kind, {"name": "a", "shape": []})
