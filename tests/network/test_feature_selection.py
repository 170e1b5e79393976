"""Inputs as structures: what is refused, and what is left of the layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bmrs_pyro.network import FeatureSelection, NoisyNetwork, compact


def test_other_numbers_of_inputs_are_refused_before_and_after_a_cut() -> None:
    network = NoisyNetwork(nn.Sequential(FeatureSelection(5), nn.Linear(5, 2)), torch.zeros(1, 5))
    small = compact(network, {"theta.0": torch.tensor([True, False, False, True, False])})
    assert small[0].index.tolist() == [0, 3]
    assert small(torch.randn(7, 5)).shape == (7, 2)
    for net in (network.net, small):
        for count in (2, 4, 9):
            with pytest.raises(ValueError, match=f"x has {count} features in dimension 1; expected 5"):
                net(torch.zeros(1, count))


@pytest.mark.parametrize("count", [0, -1])
def test_no_inputs_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"num_features is {count}; it is the number of inputs, at least 1"):
        FeatureSelection(count)
