"""What functions say that are given no posteriors by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bmrs_pyro import LogUniform, NoisyNetwork, TruncatedLogNormal, bmrs_n, select
from bmrs_pyro.metrics import hdi, predict, probability_below, quantile
from bmrs_pyro.reporting import to_inference_data

ONE = TruncatedLogNormal(torch.zeros(3), 0.3)
NET = NoisyNetwork(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), torch.zeros(1, 2))
READERS: list[Callable[[Any], Any]] = [
    lambda given: select(given, LogUniform(), bmrs_n()),
    lambda given: quantile(given, 0.5),
    lambda given: probability_below(given, 0.5),
    hdi,
    lambda given: predict(NET, given, torch.zeros(1, 2), draws=2),
]


@pytest.mark.parametrize("read", READERS)
def test_posteriors_are_given_by_name(read: Callable[[Any], Any]) -> None:
    with pytest.raises(
        TypeError, match=r"^posteriors is a TruncatedLogNormal; give them by .* posteriors\(guide\)$"
    ):
        read(ONE)
    with pytest.raises(
        TypeError, match=r"^the posterior of 'theta.0' is a Tensor; give distributions by site name"
    ):
        read({"theta.0": ONE.mean})
    read({"theta.0": ONE})


def test_draws_need_distributions_too() -> None:
    with pytest.raises(TypeError, match=r"the posterior of 'theta.0' is a Tensor"):
        to_inference_data({"theta.0": ONE.mean})  # type: ignore[dict-item]
