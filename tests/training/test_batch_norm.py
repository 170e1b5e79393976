"""Batch-norm statistics against the moments of what the layers see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bmrs_pyro.training import reestimate_batch_norm_


def test_statistics_are_the_averages_over_the_batches() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 2))
    net[0].running_mean.fill_(7.0)
    batches = [(5 * torch.randn(20, 3, 4, 4) + 2, None) for _ in range(4)]
    net.train()
    net[1].eval()
    reestimate_batch_norm_(net, batches, limit=3)
    means = torch.stack([x.mean((0, 2, 3)) for x, _ in batches[:3]]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x, _ in batches[:3]]).mean(0)
    torch.testing.assert_close(net[0].running_mean, means)
    torch.testing.assert_close(net[0].running_var, variances)
    assert [module.training for module in (net, net[0], net[1])] == [True, True, False]
    assert net[0].momentum == 0.3


class Frozen(nn.Sequential):
    """A network that keeps its first layer in evaluation mode."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self[0].eval()
        return self


def test_frozen_norms_keep_their_statistics() -> None:
    net = Frozen(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).eval()
    net[0].running_mean.fill_(7.0)
    reestimate_batch_norm_(net, [(torch.randn(20, 2), None)])
    assert net[0].running_mean.tolist() == [7.0, 7.0]
    assert net[1].running_mean[0] < -5


def test_a_later_norm_sees_what_the_earlier_one_makes_of_its_batch() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6), nn.BatchNorm1d(6)).eval()
    x = 3 * torch.randn(500, 4) + 1
    reestimate_batch_norm_(net, [(x, None)])
    standard = (x - x.mean(0)) / x.var(0, unbiased=False).add(1e-5).sqrt()
    seen = net[1](standard).detach()
    torch.testing.assert_close(net[2].running_mean, seen.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net[2].running_var, seen.var(0), rtol=1e-4, atol=1e-5)
    out = net(x)
    torch.testing.assert_close(out.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    assert not net.training


class Elsewhere(nn.Module):
    """A network with a weight on the device "meta", which takes no inputs of another device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.device == self.weight.device
        out: torch.Tensor = self.norm(torch.ones(len(x), 2))
        return out


def test_batches_are_moved_to_the_network() -> None:
    net = Elsewhere()
    reestimate_batch_norm_(net, [(torch.randn(4, 2), torch.zeros(4))])
    torch.testing.assert_close(net.norm.running_mean, torch.ones(2))


def test_a_network_without_norms_asks_for_no_batches() -> None:
    def nothing() -> object:
        raise AssertionError
        yield

    reestimate_batch_norm_(nn.Linear(2, 2), nothing())  # type: ignore[arg-type]


@pytest.mark.parametrize(("batches", "limit"), [([], 100), ([(torch.ones(4, 2), None)], 0)])
def test_no_batches_are_an_error_that_leaves_the_statistics(
    batches: list[tuple[torch.Tensor, None]], limit: int
) -> None:
    net = nn.BatchNorm1d(2, momentum=0.3)
    net(5 + torch.randn(50, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match="no batches"):
        reestimate_batch_norm_(net, batches, limit)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.momentum == 0.3
    assert net.training
