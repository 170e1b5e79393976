"""Surveys: shares counted by hand, what is refused, and the table."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.reporting import removal_error, survey, survey_table


def test_share_of_a_perceptron() -> None:
    found = survey(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(4, 5))
    assert (found.parameters, found.families, found.structures) == (75, 1, 8)
    assert found.reachable == pytest.approx(72 / 75)  # all but the last biases
    assert found.error < 1e-5
    assert [family for family, _ in found.left_out] == ["theta.2"]


def test_fresh_networks_are_woken_on_a_copy() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(net[3].weight)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert survey(net, torch.randn(16, 5)).error < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class TwoOutputs(nn.Module):
    def __init__(self, second: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        self.second = second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x), torch.full_like(x, self.second)


def test_every_output_counts_for_the_error() -> None:
    x = torch.randn(4, 5)
    network = NoisyNetwork(TwoOutputs(1.0), x)
    assert removal_error(network, x) < 1e-5  # an output that is the same for all examples is no error
    network.net.second = torch.nan  # type: ignore[assignment]
    assert math.isnan(removal_error(network, x))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("out of order")


def test_refusals_and_reasons_are_in_the_table() -> None:
    good = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    surveys = {
        "good": survey(good, torch.randn(4, 5)),
        "single": survey(nn.Linear(5, 3), torch.randn(4, 5)),
        "broken": survey(Untraceable(), torch.randn(4, 4)),
    }
    assert surveys["single"].refusal == "no family can be removed"
    table = survey_table(surveys)
    assert "| good | 75 | 1 | 8 | 96.0% |" in table
    assert "| broken | 20 | refused: the network does not run on the example inputs ((4, 4))" in table
    assert "`good` leaves out" in table
    assert "- `theta.2`: they are outputs of the network" in table
