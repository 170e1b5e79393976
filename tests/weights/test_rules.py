"""Reduction rules: the learned inclusion rate, groups, and what the horseshoe makes of signal and noise."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import digamma, expit
from torch import Tensor, nn

from bmrs_pyro.reduction import delta_f
from bmrs_pyro.weights import HorseshoeRule, SpikeAndSlab, inclusion_threshold, weight_layers

LAYER = weight_layers(nn.Sequential(nn.Linear(9, 6), nn.Linear(6, 2)))[0]
STANDARD, SPIKE = dist.Normal(0.0, 1.0), dist.Normal(0.0, 1e-8)


def test_inclusion_threshold_by_the_published_loop() -> None:
    change = torch.linspace(-8, 3, 50, dtype=torch.float64)
    zeta = 0.0
    for _ in range(4):
        q = [float(expit(zeta - value)) for value in change.tolist()]
        zeta = float(digamma(1 + sum(q)) - digamma(1 + sum(1 - value for value in q)))
    assert inclusion_threshold(change).item() == pytest.approx(zeta, rel=1e-12)


def test_inclusion_threshold_follows_the_majority() -> None:
    def threshold(wanted: int, unwanted: int) -> float:
        change = torch.tensor([-9.0] * wanted + [9.0] * unwanted, dtype=torch.float64)
        return inclusion_threshold(change).item()

    assert threshold(20, 20) == pytest.approx(0, abs=1e-6)
    assert threshold(40, 4) == pytest.approx(-threshold(4, 40), abs=1e-6)
    assert threshold(40, 4) > 2
    assert threshold(0, 0) == 0
    wanted = torch.full((10,), -9.0, dtype=torch.float64)
    assert inclusion_threshold(wanted, excluded=10).item() == pytest.approx(0, abs=0.01)


def posterior() -> dist.Normal:
    """Rows 0 and 1 carry a signal in their first three columns; the rest lies around 0."""
    loc, scale = torch.zeros(6, 10), torch.full((6, 10), 0.6)
    loc[:2, :3], scale[:2, :3] = torch.tensor([1.0, -1.5, 0.8]), 0.1
    return dist.Normal(loc, scale)


def test_spike_and_slab_keeps_the_signal() -> None:
    factors = SpikeAndSlab()(LAYER, posterior(), torch.ones(6, 10))
    expected = torch.zeros(6, 10)
    expected[:2, :3] = 1.0
    assert torch.equal(factors, expected)


def test_rows_are_in_or_out_together() -> None:
    factors = SpikeAndSlab("row")(LAYER, posterior(), torch.ones(6, 10))
    change = delta_f(posterior(), STANDARD, SPIKE).sum(1)
    keep = change <= inclusion_threshold(change)
    assert keep.tolist() == [True, True, False, False, False, False]
    assert torch.equal(factors, keep.float()[:, None].expand(6, 10))


@pytest.mark.parametrize("group", ["weight", "row"])
def test_pruned_weights_stay_pruned(group: str) -> None:
    gain = torch.ones(6, 10)
    gain[0], gain[1, 0] = 0.0, 0.0
    factors = SpikeAndSlab(group)(LAYER, posterior(), gain)  # type: ignore[arg-type]
    assert (factors * gain)[0].sum() == 0
    assert (factors * gain)[1, 0] == 0
    assert (factors * gain)[1, 1:3].tolist() == [1.0, 1.0]


def test_unknown_group() -> None:
    with pytest.raises(ValueError, match="group is 'column'; use 'weight' or 'row'"):
        SpikeAndSlab("column")  # type: ignore[arg-type]


def test_horseshoe_shrinks_noise_and_spares_signal() -> None:
    gain = torch.ones(6, 10)
    gain[5] = 0.0
    factors = HorseshoeRule(steps=200)(LAYER, posterior(), gain)
    signal = posterior().loc != 0
    assert (factors[5] == 0).all()
    assert factors[:5][signal[:5]].min() > 3 * factors[:5][~signal[:5]].max()
    assert (factors[signal] / posterior().loc[signal].abs()).log().abs().max() < math.log(2.5)


def test_horseshoe_finds_the_best_scale_of_its_family() -> None:
    """With one common scale the fit can be checked by a grid: E_q of the evidence peaks where ΔF plus prior does."""

    def common(layer: object) -> Tensor:
        precision = pyro.sample("precision", dist.Gamma(2.0, 2.0))
        return precision.rsqrt().reshape(1, 1)

    signal = dist.Normal(0.3 * torch.randn(6, 10), torch.full((6, 10), 0.05))
    factor = HorseshoeRule(common, steps=300)(LAYER, signal, torch.ones(6, 10))
    grid = torch.linspace(-3, 1, 2001).exp().double()
    change = torch.stack([delta_f(signal, STANDARD, dist.Normal(0.0, gamma)).sum() for gamma in grid])
    log_joint = (
        change + dist.Gamma(2.0, 2.0).log_prob(grid**-2) + (grid**-2).log()
    )  # density of log precision
    weight = (log_joint - log_joint.max()).exp() * grid.log().diff().mean()
    expected = ((grid**-2 * weight).sum() / weight.sum()) ** -0.5
    torch.testing.assert_close(factor.double(), expected.expand(6, 10), rtol=0.03, atol=0)


def test_horseshoe_cuts_at_its_limit() -> None:
    factors = HorseshoeRule(cut=0.3, steps=200)(LAYER, posterior(), torch.ones(6, 10))
    assert torch.equal(factors > 0, posterior().loc != 0)
