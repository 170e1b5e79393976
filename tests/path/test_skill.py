"""The warning about a small network that is hardly better than a constant."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from bmrs_pyro.inference import as_likelihood
from bmrs_pyro.path import MuchWorse, NothingLearned
from bmrs_pyro.path.skill import Quality, warn_if_much_worse, warn_if_nothing_learned

LABELS = torch.tensor([0] * 6 + [1] * 3 + [2])  # the most frequent class has 60 %
VALUES = torch.tensor([1.0, 3.0, 1.0, 3.0])  # their standard deviation is 1


@pytest.mark.parametrize(
    ("small", "before", "worse"),
    [
        (0.74, 0.9, True),  # 0.14 of a lead of 0.3
        (0.76, 0.9, False),
        (0.9, 0.8, False),
        (0.1, 0.55, False),  # the first network was no better than a constant itself
        (0.6, 0.64, False),  # nor clearly
        (math.nan, 0.9, True),
    ],
)
def test_a_classifier_may_lose_half_of_its_lead(small: float, before: float, worse: bool) -> None:
    ignored = torch.full((10, 4), -100)
    for y in (LABELS, torch.cat([LABELS[:, None], ignored], 1)):  # what is ignored does not count
        logits = torch.zeros(*y.shape, 3)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            likelihood = as_likelihood("categorical")
            warn_if_much_worse(Quality(small, None), Quality(before, None), likelihood, [(logits, y)])
        assert [each.category for each in told] == [MuchWorse] * worse
        assert not worse or "90.00% before, 60.00% for the best constant" in str(told[0].message)


@pytest.mark.parametrize(
    ("small", "before", "worse"),
    [(0.9, 0.6, True), (0.8, 0.6, False), (5.0, 1.1, False), (math.inf, 0.1, True)],
)
def test_a_regression_may_lose_half_of_the_variance_that_it_explains(
    small: float, before: float, worse: bool
) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        batches = [(VALUES[:3], VALUES[:3]), (VALUES[3:], VALUES[3:])]
        warn_if_much_worse(Quality(None, small), Quality(None, before), as_likelihood("normal"), batches)
    assert [each.category for each in told] == [MuchWorse] * worse
    assert (
        not worse
        or str(told[0].message).endswith(
            "0.6 before, 1 for the best constant; give it more epochs, a lower learning rate or a larger budget"
        )
        or small == math.inf
    )


def test_without_a_quality_nothing_is_compared() -> None:
    warn_if_much_worse(Quality(None, None), Quality(None, 1.0), as_likelihood("normal"), [])


def test_every_column_has_a_constant_of_its_own() -> None:
    values = torch.stack([VALUES, VALUES + 10], 1)  # the standard deviation within each column is 1
    with pytest.warns(MuchWorse, match="1 for the best constant"):
        warn_if_much_worse(
            Quality(None, 0.99), Quality(None, 0.4), as_likelihood("normal"), [(values, values)]
        )
    rare = torch.tensor([[0, 1]] * 9 + [[1, 0]])  # both columns have a class of 90 %
    logits = torch.zeros(10, 2)
    with pytest.warns(MuchWorse, match="90.00% for the best constant"):
        warn_if_much_worse(
            Quality(0.9, None), Quality(0.99, None), as_likelihood("bernoulli"), [(logits, rare)]
        )
    series = [(part, part) for part in (torch.randn(4, 3), torch.randn(4, 5))]  # of several lengths
    pooled = torch.cat([part.flatten() for part, _ in series]).std(correction=0).item()
    with pytest.warns(MuchWorse, match=f"{pooled:.4g} for the best constant"):
        warn_if_much_worse(
            Quality(None, pooled), Quality(None, 0.1 * pooled), as_likelihood("normal:1"), series
        )


@pytest.mark.parametrize(
    ("accuracy", "unlikely", "told"),
    [(0.5, True, True), (0.6, True, True), (0.61, True, False), (0.5, False, False)],
)
def test_a_classifier_must_beat_the_most_frequent_class(accuracy: float, unlikely: bool, told: bool) -> None:
    batches = [(torch.zeros(10, 3), LABELS)]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = warn_if_nothing_learned(
            Quality(accuracy, None), as_likelihood("categorical"), batches, lambda: unlikely
        )
    assert [each.category for each in seen] == [NothingLearned] * told
    assert (found is not None) == told
    assert not told or f"accuracy {accuracy:.2%}, 60.00% for the best constant; train it longer" in str(found)


def test_of_labels_that_are_all_the_same_nothing_is_told() -> None:
    ones = (torch.zeros(10, 3), torch.ones(10, dtype=torch.long))
    values = (VALUES, torch.ones(4))
    one = (VALUES[:1], VALUES[:1])  # a single example
    for quality, worse, name, batch in (
        (Quality(0.97, None), Quality(0.2, None), "categorical", ones),
        (Quality(1.0, None), Quality(0.9, None), "categorical", ones),
        (Quality(None, 0.1), Quality(None, 0.3), "normal", values),
        (Quality(None, 0.1), Quality(None, 0.3), "normal", one),
    ):
        likelihood = as_likelihood(name)
        assert warn_if_nothing_learned(quality, likelihood, [batch], lambda: True) is None
        assert warn_if_much_worse(worse, quality, likelihood, [batch]) is None


@pytest.mark.parametrize(("rmse", "told"), [(1.2, True), (1.0, True), (0.9, False), (None, False)])
def test_a_regression_must_beat_the_mean(rmse: float | None, told: bool) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warn_if_nothing_learned(
            Quality(None, rmse), as_likelihood("normal"), [(VALUES, VALUES)], lambda: True
        )
    assert [each.category for each in seen] == [NothingLearned] * told
