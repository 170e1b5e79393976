"""Reduction rules: the learned inclusion rate, groups, and what the horseshoe makes of signal and noise."""

from __future__ import annotations

import math
from typing import Literal

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import digamma, expit
from torch import Tensor, nn

from bmrs_pyro.reduction import delta_f
from bmrs_pyro.weights import (
    HorseshoeRule,
    MeanField,
    SpikeAndSlab,
    WeightModel,
    inclusion_threshold,
    reduce_,
    weight_layers,
)

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
    factors = SpikeAndSlab(share=1)(LAYER, posterior(), torch.ones(6, 10))
    expected = torch.zeros(6, 10)
    expected[:2, :3] = 1.0
    assert torch.equal(factors, expected)


def test_rows_are_in_or_out_together() -> None:
    factors = SpikeAndSlab("row", share=1)(LAYER, posterior(), torch.ones(6, 10))
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


@pytest.mark.parametrize(("group", "units"), [("weight", 60), ("row", 6)])
def test_a_reduction_takes_away_a_share_of_what_is_left(group: Literal["weight", "row"], units: int) -> None:
    loc = torch.linspace(0.0, 0.1, 60).view(6, 10)  # all are needless, the first ones the most
    q, gain, left = dist.Normal(loc, torch.full((6, 10), 0.6)), torch.ones(6, 10), units
    for _ in range(12):
        gain = gain * SpikeAndSlab(group)(LAYER, q, gain)
        left -= max(1, left // 2)
        expected = torch.zeros(60)
        expected[60 - left * (60 // units) :] = 1.0
        assert torch.equal(gain.flatten(), expected)
    assert not gain.any()


@pytest.mark.parametrize("group", ["weight", "row"])
def test_repeated_reductions_end_where_one_does_that_takes_all(group: Literal["weight", "row"]) -> None:
    once = SpikeAndSlab(group, share=1)(LAYER, posterior(), torch.ones(6, 10))
    gain = torch.ones(6, 10)
    for _ in range(8):
        gain = gain * SpikeAndSlab(group)(LAYER, posterior(), gain)
    assert torch.equal(gain, once)


def test_unknown_group() -> None:
    with pytest.raises(ValueError, match="group is 'column'; use 'weight' or 'row'"):
        SpikeAndSlab("column")  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_shares_out_of_range(share: float) -> None:
    right = "be finite" if math.isnan(share) else r"lie in \(0, 1\]"
    with pytest.raises(ValueError, match=rf"share is {share}; it must {right}"):
        SpikeAndSlab(share=share)


def test_a_share_is_a_number() -> None:
    with pytest.raises(TypeError, match=r"^share is 'a'; give a number$"):
        SpikeAndSlab(share="a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^rate is 'a'; give a number$"):
        HorseshoeRule(rate="a")  # type: ignore[arg-type]


def test_horseshoe_shrinks_noise_and_spares_signal() -> None:
    gain = torch.ones(6, 10)
    gain[5] = 0.0
    factors = HorseshoeRule(steps=200, rate=1.0)(LAYER, posterior(), gain)
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
    factor = HorseshoeRule(common, steps=300, rate=1.0)(LAYER, signal, torch.ones(6, 10))
    grid = torch.linspace(-3, 1, 2001).exp().double()
    change = torch.stack([delta_f(signal, STANDARD, dist.Normal(0.0, gamma)).sum() for gamma in grid])
    log_joint = (
        change + dist.Gamma(2.0, 2.0).log_prob(grid**-2) + (grid**-2).log()
    )  # density of log precision
    weight = (log_joint - log_joint.max()).exp() * grid.log().diff().mean()
    expected = ((grid**-2 * weight).sum() / weight.sum()) ** -0.5
    torch.testing.assert_close(factor.double(), expected.expand(6, 10), rtol=0.03, atol=0)


def test_horseshoe_cuts_at_its_limit() -> None:
    factors = HorseshoeRule(cut=0.3, steps=200, rate=1.0)(LAYER, posterior(), torch.ones(6, 10))
    assert torch.equal(factors > 0, posterior().loc != 0)


def test_repeated_horseshoe_reductions_keep_what_the_data_show() -> None:
    """The exact posterior of a linear regression: more reductions without new data may prune no weight that is needed.

    The evidence against 0 is 36 nats or more for each of the first three weights.
    """
    n, scale = 200, 0.5
    torch.manual_seed(0)
    x = torch.linalg.qr(torch.randn(n, 12, dtype=torch.float64))[0] * math.sqrt(n)
    y = x[:, :3] @ torch.tensor([1.0, -0.6, 0.25]).double() + scale * torch.randn(n, dtype=torch.float64)
    precision = n / scale**2 + 1
    exact = dist.Normal((x.T @ y / scale**2 / precision)[None], torch.full((1, 12), precision**-0.5).double())
    model = WeightModel(
        nn.Linear(12, 1, bias=False).double(), f"normal:{scale}", n, scales=lambda layer: torch.tensor(1.0)
    )
    guide = MeanField(model.draw)
    guide.set_("weights", exact, torch.ones(1, 12, dtype=torch.bool))
    gains = []
    for _ in range(25):
        reduce_(model, guide, HorseshoeRule(), last=True)
        gains.append(model.gain.clone())
    assert (gains[-1] > 0).nonzero().flatten().tolist() == [0, 1, 2]
    # the rule's Monte Carlo error is all that changes, and it does not add up
    late = torch.stack(gains[10:])[:, :3].log()
    assert late.std(0).max() < 0.2
    assert (late[-5:].mean(0) - late[:5].mean(0)).abs().max() < 0.2


def test_gain_below_the_cut_stays_with_strong_evidence() -> None:
    """A small weight that is known well is pruned by its size alone only without evidence."""
    known, unknown = (dist.Normal(torch.full((6, 10), 0.05), torch.full((6, 10), sd)) for sd in (0.005, 0.05))
    rule = HorseshoeRule(
        lambda layer: pyro.sample("g", dist.Gamma(2.0, 40.0)).reshape(1, 1), steps=200, rate=1.0
    )
    factors = rule(LAYER, known, torch.ones(6, 10))
    assert 0 < factors.max() < 0.1
    assert (rule(LAYER, unknown, torch.ones(6, 10)) == 0).all()
