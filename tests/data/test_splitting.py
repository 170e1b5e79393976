"""Stratified splits: sizes, classes, and what stays the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from bmrs_pyro.data import DataError, Dataset, stratified_split


def numbered(counts: list[int]) -> Dataset:
    """Give each example its index as its only feature, and the classes in a shuffled order."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    return Dataset(torch.arange(len(labels), dtype=torch.float32)[:, None], labels, len(counts), "toy")


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda counts: max(counts) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_partitions_every_class_by_its_share(counts: list[int], fraction: float, seed: int) -> None:
    whole = numbered(counts)
    rest, held = stratified_split(whole, fraction, seed=seed)

    rows = [part.images[:, 0].long() for part in (rest, held)]
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(len(whole)))
    for part, row in zip((rest, held), rows, strict=True):
        assert torch.equal(row, row.sort().values)
        assert torch.equal(part.labels, whole.labels[row])

    taken = held.labels.bincount(minlength=len(counts)).tolist()
    size, splittable = round(fraction * len(whole)), [n for n in counts if n > 1]
    assert len(held) == min(max(size, len(splittable)), sum(splittable) - len(splittable))
    for n, t in zip(counts, taken, strict=True):
        assert t == 0 if n < 2 else 1 <= t < n


def test_class_sizes_are_those_of_scikit_learn() -> None:
    whole = numbered([100, 250, 33, 7])
    _, oracle = train_test_split(
        whole.labels.numpy(), test_size=78, stratify=whole.labels.numpy(), random_state=0
    )
    _, held = stratified_split(whole, 0.2)
    assert held.labels.bincount().tolist() == torch.from_numpy(oracle).bincount().tolist() == [20, 50, 7, 1]


def test_seed_alone_decides() -> None:
    whole = numbered([30, 30])
    one, again, other = (stratified_split(whole, 0.5, seed=seed)[1].images for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_refuses_a_share_outside_the_open_interval(fraction: float) -> None:
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        stratified_split(numbered([4, 4]), fraction)


def test_refuses_classes_of_one() -> None:
    with pytest.raises(DataError, match="toy: no class has two examples"):
        stratified_split(numbered([1, 1, 1]), 0.5)
