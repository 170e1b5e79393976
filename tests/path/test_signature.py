"""The numbers by which a finished path knows its network again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro import NoisyNetwork, SupervisedModel
from bmrs_pyro.path.signature import signature
from tests.inference.programs import FEATURES, batches


class Running(nn.Module):
    """A mean that training changes, in place or by assignment, and a constant scale."""

    mean: Tensor
    scale: Tensor

    def __init__(self, scale: float = 1.0, size: int = 12, *, assigns: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.full((size,), scale))
        self.assigns = assigns

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.assigns:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        elif self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return (x - self.mean) * self.scale


def model(scale: float = 1.0, *, assigns: bool = False) -> SupervisedModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        Running(size=FEATURES),
        nn.Linear(FEATURES, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        Running(scale, assigns=assigns),
        nn.Linear(12, 3),
    )
    return SupervisedModel(NoisyNetwork(net, torch.zeros(1, FEATURES)), "categorical", 480)


@pytest.mark.parametrize("assigns", [False, True])
def test_training_changes_no_signature(assigns: bool) -> None:
    """`bmrs choose` refused the finished run of a network with running statistics of its own."""
    fresh, trained = model(assigns=assigns), model(assigns=assigns)
    for x, _ in batches():
        trained.train()
        trained.network(x)
    for weight in trained.parameters():
        nn.init.normal_(weight)
    mean = dict(trained.named_buffers())["network.net.4.mean"].clone()
    assert mean.abs().max() > 0.01
    found = signature(trained, batches())
    assert len(found) == 2
    assert found == signature(fresh, batches())
    assert torch.equal(dict(trained.named_buffers())["network.net.4.mean"], mean)
    assert trained.training


def test_a_constant_is_part_of_the_signature() -> None:
    assert signature(model(), batches()) != signature(model(2.0), batches())
