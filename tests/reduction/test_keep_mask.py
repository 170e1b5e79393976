"""KeepMask: immutable, printable, exact through JSON, composable."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bmrs_pyro.reduction import KeepMask

bits = st.lists(st.booleans(), max_size=40).map(lambda values: torch.tensor(values, dtype=torch.bool))
masks = st.dictionaries(st.text(max_size=12), bits, max_size=5).map(KeepMask)


@given(masks)
def test_json_round_trip(mask: KeepMask) -> None:
    again = KeepMask.from_json(mask.to_json())
    assert again == mask
    assert list(again) == list(mask)
    assert hash(again) == hash(mask)


@given(masks)
def test_counts(mask: KeepMask) -> None:
    flat = [kept for family in mask.values() for kept in family.tolist()]
    assert (mask.total, mask.kept, mask.removed) == (len(flat), sum(flat), len(flat) - sum(flat))
    for name, family in mask.items():
        assert mask.indices(name).tolist() == [i for i, kept in enumerate(family.tolist()) if kept]


@given(masks, st.data())
def test_then_removes_in_the_first_numbering(mask: KeepMask, data: st.DataObject) -> None:
    later, survivors = {}, {}
    for name in mask:
        kept = mask.indices(name).tolist()
        choice = data.draw(st.lists(st.booleans(), min_size=len(kept), max_size=len(kept)))
        later[name] = torch.tensor(choice, dtype=torch.bool)
        survivors[name] = [i for i, chosen in zip(kept, choice, strict=True) if chosen]
    both = mask.then(KeepMask(later))
    assert {name: both.indices(name).tolist() for name in both} == survivors
    assert both.total == mask.total
    everything = KeepMask({name: torch.ones(len(mask.indices(name)), dtype=torch.bool) for name in mask})
    assert mask.then(everything) == mask


def test_then_refuses_what_does_not_follow() -> None:
    mask = KeepMask({"a": torch.tensor([True, False, True])})
    with pytest.raises(ValueError, match="'b'"):
        mask.then(KeepMask({"b": torch.tensor([True])}))
    with pytest.raises(ValueError, match="over 3 structures, the earlier one keeps 2"):
        mask.then(mask)
    assert mask.then(KeepMask({})) == mask


def test_nothing_changes_it() -> None:
    source = torch.tensor([True, False])
    mask = KeepMask({"a": source})
    source[1] = True
    mask["a"][0] = False
    assert mask["a"].tolist() == [True, False]
    with pytest.raises(TypeError):
        mask["a"] = source


@pytest.mark.parametrize("bad", [torch.ones(3), torch.ones(2, 2, dtype=torch.bool), [True, False]])
def test_only_boolean_vectors_are_masks(bad: Tensor) -> None:
    with pytest.raises(TypeError, match=r"'a' must be a boolean tensor of shape \(C,\)"):
        KeepMask({"a": bad})


def test_equality() -> None:
    mask = KeepMask({"a": torch.tensor([True, False])})
    assert mask != KeepMask({"a": torch.tensor([True, True])})
    assert mask != KeepMask({"a": torch.tensor([True])})
    assert mask != KeepMask({"b": torch.tensor([True, False])})
    assert mask != {"a": torch.tensor([True, False])}


def test_prints_as_a_table() -> None:
    mask = KeepMask(
        {"theta.conv1": torch.tensor([True, False, False, True]), "theta.fc": torch.tensor([True])}
    )
    assert str(mask).splitlines() == [
        "family          kept       of  removed",
        "theta.conv1        2        4    50.0%",
        "theta.fc           1        1     0.0%",
        "total              3        5    40.0%",
    ]
    assert repr(mask) == "KeepMask(families=2, kept=3, total=5)"


def test_json_is_compact_and_versioned() -> None:
    text = KeepMask({"theta": torch.rand(10_000) < 0.5}).to_json()
    assert len(text) < 10_100
    record = json.loads(text)
    assert (record["format"], record["version"]) == ("bmrs_pyro.KeepMask", 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"format": "bmrs_pyro.KeepMask", "version": 2, "keep": {}}',
        '{"format": "other", "version": 1, "keep": {}}',
        '{"format": "bmrs_pyro.KeepMask", "version": 1, "keep": {"a": "10x"}}',
        '{"format": "bmrs_pyro.KeepMask", "version": 1, "keep": {"a": [1, 0]}}',
        '{"format": "bmrs_pyro.KeepMask", "version": 1, "keep": "10"}',
    ],
)
def test_malformed_json_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="not the JSON of a KeepMask") as caught:
        KeepMask.from_json(text)
    assert "\n" not in str(caught.value)
