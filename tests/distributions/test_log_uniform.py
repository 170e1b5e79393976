"""LogUniform against scipy's."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from bmrs_pyro.distributions import PRIOR_HIGH, PRIOR_LOW, LogUniform

INTERVALS = [(PRIOR_LOW, PRIOR_HIGH), (2.0**-23, 2.0**-4), (0.5, 0.5001), (1e-3, 40.0)]


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_agrees_with_scipy(low: float, high: float) -> None:
    ours, theirs = LogUniform(double(low), double(high)), stats.loguniform(low, high)
    p = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    theta = ours.icdf(p)
    torch.testing.assert_close(theta, torch.from_numpy(theirs.ppf(p.numpy())), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.cdf(theta), p, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        ours.log_prob(theta), torch.from_numpy(theirs.logpdf(theta.numpy())), rtol=1e-11, atol=1e-11
    )
    assert ours.mean.item() == pytest.approx(theirs.mean(), rel=1e-11)
    assert ours.entropy().item() == pytest.approx(theirs.entropy(), rel=1e-9)
    assert ours.mode.item() == low


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_variance_by_quadrature(low: float, high: float) -> None:
    distribution = LogUniform(double(low), double(high))
    u = torch.linspace(math.log(low), math.log(high), 200_001, dtype=torch.float64)
    variance = torch.trapezoid((u.exp() - distribution.mean) ** 2, u) / distribution.log_width
    # the closed form subtracts: 12 eps/width² of it is rounding, 3e-7 at the width of 2e-4 here
    torch.testing.assert_close(distribution.variance, variance, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        distribution.signal_to_noise, distribution.mean / variance.sqrt(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_follow_the_law(dtype: torch.dtype) -> None:
    distribution = LogUniform(torch.tensor(PRIOR_LOW, dtype=dtype), 1.0)
    draws = distribution.sample((20_000,))
    assert draws.dtype == dtype
    assert distribution.support.check(draws).all()
    assert stats.kstest(draws.double().log().numpy(), stats.uniform(-20, 20).cdf).pvalue > 1e-3


def test_density_outside_the_interval() -> None:
    distribution = LogUniform(0.1, 1.0, validate_args=False)
    assert distribution.log_prob(torch.tensor([0.05, 1.5])).tolist() == [-math.inf, -math.inf]
    with pytest.raises(ValueError, match="support"):
        LogUniform(0.1, 1.0, validate_args=True).log_prob(torch.tensor(1.5))


def test_mass_below_values_outside_the_interval() -> None:
    value = torch.tensor([-1.0, 0.0, 0.05, 0.1, 1.0, 1.5, math.inf], dtype=torch.float64, requires_grad=True)
    share = LogUniform(0.1, 1.0).cdf(value)
    assert share.tolist() == [0, 0, 0, 0, 1, 1, 1]
    share.sum().backward()
    assert value.grad is not None
    assert value.grad.isfinite().all()
    assert LogUniform(0.1, 1.0).cdf(torch.tensor(math.nan)).isnan()


def test_expand() -> None:
    distribution = LogUniform(torch.tensor([[0.1], [0.2]]), 1.0)
    assert distribution.batch_shape == (2, 1)
    wide = distribution.expand([4, 2, 3])
    assert type(wide) is LogUniform
    assert wide.sample().shape == (4, 2, 3)
    assert wide.sample().unique().numel() == 24
    assert wide.mean.shape == (4, 2, 3)
    assert torch.equal(wide.mean[0, :, :1], distribution.mean)
    with pytest.raises(RuntimeError):
        distribution.expand([3, 3])


def test_results_are_over_the_whole_batch() -> None:
    distribution = LogUniform().expand([7, 5])
    for value in (torch.tensor(0.5), torch.full((5,), 0.5), torch.full((7, 1), 0.5), torch.full((7, 5), 0.5)):
        for result in (distribution.log_prob(value), distribution.cdf(value), distribution.icdf(value)):
            assert result.shape == (7, 5)
            assert result.unique().numel() == 1
        assert distribution.to_event(1).log_prob(value).shape == (7,)
    assert distribution.log_prob(torch.full((2, 7, 5), 0.5)).shape == (2, 7, 5)
    assert LogUniform().cdf(torch.full((3,), 0.5)).shape == (3,)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.5), (0.5, 0.5), (-1.0, 1.0), (0.0, 1.0)])
def test_wrong_bounds_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="low"):
        LogUniform(low, high)
