"""The best constant outputs, against closed forms."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.inference import as_likelihood
from bmrs_pyro.path import MuchWorse
from bmrs_pyro.path.constant import constant_log_likelihood
from bmrs_pyro.path.skill import warn_if_unlikely

X = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
VALUES = 3 * torch.randn(120, generator=torch.Generator().manual_seed(1)) + 2
COUNTS = torch.arange(120) % 5


def batches(y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [*zip(X.split(50), y.split(50), strict=True)]


def normal(y: Tensor) -> float:
    return -0.5 * math.log(2 * math.pi * math.e * y.double().var(correction=0).item())


def poisson(y: Tensor) -> float:
    y = y.double()
    return float((y * y.mean().log() - y.mean() - (y + 1).lgamma()).mean())


def entropy(y: Tensor) -> float:
    shares = y.bincount().double() / len(y)
    return float((shares * shares.log()).sum())


@pytest.mark.parametrize(
    ("likelihood", "outputs", "y", "expected"),
    [
        ("normal:predicted", 2, VALUES, normal(VALUES)),
        ("normal", 1, VALUES, normal(VALUES)),  # its scale is fitted along
        ("poisson", 1, COUNTS, poisson(COUNTS)),
        ("bernoulli", 1, COUNTS % 2, entropy(COUNTS % 2)),
        ("categorical", 5, COUNTS, entropy(COUNTS)),
        (lambda log: dist.Exponential(log.squeeze(1).exp()), 1, VALUES.square(), None),
    ],
)
def test_the_best_constant_is_that_of_a_closed_form(
    likelihood: Any, outputs: int, y: Tensor, expected: float | None
) -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, outputs)
    given = as_likelihood(likelihood)
    weights, before = net.weight.clone(), [p.clone() for p in getattr(given, "parameters", list)()]
    found = constant_log_likelihood(given, net, batches(y))
    if expected is None:  # of an exponential distribution: −1 − log of the mean
        expected = -1 - y.double().mean().log().item()
    assert found == pytest.approx(expected, abs=2e-3)
    assert torch.equal(net.weight, weights)
    assert net.training
    for parameter, value in zip(getattr(given, "parameters", list)(), before, strict=True):
        assert torch.equal(parameter, value)


def test_no_constant_is_known_where_outputs_are_no_tensor_or_of_several_lengths() -> None:
    likelihood = as_likelihood("normal:1")
    series = [(torch.randn(4, 3), torch.randn(4, 3)), (torch.randn(4, 5), torch.randn(4, 5))]
    assert constant_log_likelihood(likelihood, nn.Identity(), series) is None
    assert constant_log_likelihood(likelihood, nn.Identity(), []) is None


@pytest.mark.parametrize(
    ("small", "before", "best", "share", "worse"),
    [
        (-1.6, -1.0, -2.0, 0.5, True),
        (-1.4, -1.0, -2.0, 0.5, False),
        (-1.6, -1.0, -2.0, 0.0, False),
        (-2.1, -1.0, -2.0, 0.0, True),
        (-0.9, -1.0, -0.5, 0.5, False),  # better than before
        (-3.0, -1.0, -0.99, 0.5, False),  # the first network was no better than a constant
        (-3.0, -1.0, None, 0.5, False),
        (math.nan, -1.0, -2.0, 0.5, True),
    ],
)
def test_half_of_the_lead_may_be_lost(
    small: float, before: float, best: float | None, share: float, worse: bool
) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        said = warn_if_unlikely(small, before, lambda: best, share=share)
    assert [each.category for each in told] == [MuchWorse] * worse
    assert (said is not None) == worse
    assert not worse or f"{before:.4g} before, {best:.4g} for the best constant outputs" in str(said)
