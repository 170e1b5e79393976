"""TruncatedLogNormal against the reference file, 50 digits, scipy and quadrature."""

from __future__ import annotations

import copy
import math

import mpmath as mp
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import kl_divergence

from bmrs_pyro.distributions import PRIOR_HIGH, PRIOR_LOW, LogUniform, TruncatedLogNormal
from tests.distributions import reference

RTOL = {torch.float64: 1e-9, torch.float32: 1e-3}
STATISTICS = {"log_z": "log_z", "mean": "mean", "variance": "variance", "snr": "signal_to_noise"}

# in the interval, near its ends, outside; the last two so far out that distances to the bound are solved for
CASES = [(-10.0, 2.0), (-3.0, 0.05), (-19.9, 0.4), (0.0, 0.0067), (2.0, 0.5), (-15.0, 130.0), (-26.0, 0.9)]
FAR_CASES = [(0.4, 0.0067), (-24.0, 0.02)]


def gain(cases: list[tuple[float, float]], dtype: torch.dtype = torch.float64) -> TruncatedLogNormal:
    return TruncatedLogNormal(*torch.tensor(cases, dtype=dtype).T)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("key", STATISTICS)
def test_reference_file(key: str, dtype: torch.dtype) -> None:
    q = TruncatedLogNormal(reference.reference("loc", dtype), reference.reference("scale", dtype))
    ours = getattr(q, STATISTICS[key])
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), reference.reference(key), rtol=RTOL[dtype], atol=1e-12)


def test_it_shows_its_parameters_and_promotes_integers() -> None:
    q = TruncatedLogNormal(torch.tensor([0, -1]), 0.5, 1e-3, 1)
    assert str(q) == "TruncatedLogNormal(loc: torch.Size([2]), scale: torch.Size([2]), low: 0.001, high: 1.0)"
    assert str(TruncatedLogNormal(-1, 2, 0.5, 1.0)) == (
        "TruncatedLogNormal(loc: -1.0, scale: 2.0, low: 0.5, high: 1.0)"
    )
    assert str(LogUniform(0.5, 1)) == "LogUniform(low: 0.5, high: 1.0)"
    assert q.scale.tolist() == [0.5, 0.5]
    assert q.sample().dtype == LogUniform(torch.tensor(1), torch.tensor(2)).sample().dtype == torch.float32
    assert TruncatedLogNormal(torch.tensor(-1.0).double(), 2).sample().dtype == torch.float64


def test_small_moments_to_1e_9_relative() -> None:
    """Near 0 the absolute tolerance of the file hides everything: variances go down to 1e-31."""
    q = TruncatedLogNormal(reference.reference("loc"), reference.reference("scale"))
    torch.testing.assert_close(q.mean, reference.reference("mean"), rtol=1e-9, atol=0)
    torch.testing.assert_close(q.variance, reference.reference("variance"), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("loc", "scale"), CASES)
def test_density_and_distribution_function_of_scipy(loc: float, scale: float) -> None:
    theirs = stats.truncnorm((-20 - loc) / scale, -loc / scale, loc, scale)
    q = gain([(loc, scale)])
    theta = q.icdf(torch.linspace(0.01, 0.99, 99, dtype=torch.float64))
    u = theta.log()
    torch.testing.assert_close(
        q.log_prob(theta) + u, torch.from_numpy(theirs.logpdf(u.numpy())), rtol=1e-8, atol=1e-8
    )
    torch.testing.assert_close(q.cdf(theta), torch.from_numpy(theirs.cdf(u.numpy())), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("loc", "scale"), CASES + FAR_CASES)
def test_entropy_and_mode_by_quadrature(loc: float, scale: float) -> None:
    q = gain([(loc, scale)])
    p = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    theta = q.icdf(p)
    log_prob = q.log_prob(theta)
    assert -log_prob.mean().item() == pytest.approx(q.entropy().item(), abs=2e-4)
    assert (log_prob <= q.log_prob(q.mode) + 1e-9).all()


def test_cdf_and_icdf_are_inverse() -> None:
    q = gain(CASES + FAR_CASES).expand([5, len(CASES + FAR_CASES)])
    p = torch.tensor([[1e-8], [0.01], [0.5], [0.99], [1 - 1e-8]], dtype=torch.float64).expand(q.batch_shape)
    # log θ = −20 is good to 4e-15, and the density of log θ there up to 1e4
    torch.testing.assert_close(q.cdf(q.icdf(p)), p, rtol=1e-9, atol=1e-10)


def test_icdf_ends_at_the_bounds() -> None:
    q = gain([*CASES, *FAR_CASES, (-60.0, math.exp(-7)), (40.0, math.exp(-7))])
    low, high = (torch.full(q.batch_shape, bound, dtype=torch.float64) for bound in (PRIOR_LOW, PRIOR_HIGH))
    torch.testing.assert_close(q.icdf(torch.zeros_like(low)), low, rtol=1e-14, atol=0)
    torch.testing.assert_close(q.icdf(torch.ones_like(low)), high, rtol=1e-14, atol=0)
    assert torch.equal(q.cdf(low), torch.zeros_like(low))
    torch.testing.assert_close(q.cdf(high), torch.ones_like(low), rtol=0, atol=1e-12)


@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -2.0, 0.0, 1.0, 3.0, 5.0])
@pytest.mark.parametrize("p", [1e-6, 0.3, 0.97])
def test_quantile_and_its_gradient_to_50_digits(log_scale: float, p: float) -> None:
    scale = math.exp(log_scale)
    loc = torch.tensor(
        [-60.0, -30.0, -20.1, -19.0, -9.0, -1.0, -0.01, 0.0, 0.02, 0.6, 9.0, 40.0], dtype=torch.float64
    ).requires_grad_()
    scales = torch.full_like(loc, scale).requires_grad_()
    theta = TruncatedLogNormal(loc, scales).icdf(torch.tensor(p, dtype=torch.float64))
    by_loc, by_scale = torch.autograd.grad(theta.sum(), (loc, scales))
    bounds = mp.exp(-20), mp.mpf(1)
    for i, place in enumerate(loc.tolist()):
        x = theta[i].item()
        density, f_loc, f_scale = reference.cdf_gradient(x, place, scale, *bounds)
        # log θ is good to an ulp or two, magnified by its density, which is up to 5e7 here
        rounding = 1e-15 * max(1, -math.log(x)) * x * float(density)
        assert float(reference.cdf(x, place, scale, *bounds)) == pytest.approx(p, rel=1e-11, abs=rounding)
        # the rounding of θ moves the reference; ∂ log θ/∂loc is 1 less a ratio near 1
        relative = 1e-9 + 10 * rounding / min(p, 1 - p)
        assert by_loc[i].item() == pytest.approx(float(-f_loc / density), rel=relative, abs=1e-12 * x)
        assert by_scale[i].item() == pytest.approx(float(-f_scale / density), rel=relative, abs=1e-10 * x)


@pytest.mark.parametrize(("loc", "scale"), CASES)
def test_gradcheck(loc: float, scale: float) -> None:
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    parameters = (torch.full((3,), x, dtype=torch.float64, requires_grad=True) for x in (loc, scale))
    step = 1e-6 * scale

    def quantile(p: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return TruncatedLogNormal(loc, scale).icdf(p).log()

    def statistics(loc: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        q = TruncatedLogNormal(loc, scale)
        return q.mean, q.signal_to_noise, q.entropy(), q.log_z

    def at_values(theta: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        q = TruncatedLogNormal(loc, scale)
        return q.log_prob(theta.exp()), q.cdf(theta.exp())

    q_loc, q_scale = parameters
    assert gradcheck(quantile, (p, q_loc, q_scale), eps=step, atol=1e-5, rtol=1e-4)
    assert gradcheck(statistics, (q_loc, q_scale), eps=step, atol=1e-5, rtol=1e-4)
    u = TruncatedLogNormal(q_loc, q_scale).icdf(p).log().detach().requires_grad_()
    assert gradcheck(at_values, (u, q_loc, q_scale), eps=step, atol=1e-5, rtol=1e-4)


def test_float32_is_stable_over_the_whole_grid() -> None:
    loc = torch.linspace(-60, 40, 101).repeat_interleave(25).requires_grad_()
    scale = torch.linspace(-7, 5, 25).exp().repeat(101).requires_grad_()
    p = torch.cat([torch.rand(200), torch.tensor([0.0, 1e-7, 1 - 1e-7, 1.0])]).double().unsqueeze(-1)

    def draws(loc: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        q = TruncatedLogNormal(loc, scale)
        theta = q.icdf(p)
        assert q.support.check(theta).all()
        return theta, *torch.autograd.grad(theta.sum(), (loc, scale))

    single = draws(loc, scale)
    double = draws(loc.detach().double().requires_grad_(), scale.detach().double().requires_grad_())
    for ours, truth in zip(single, double, strict=True):
        assert ours.dtype == torch.float32
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=1e-9)
    # θ grows with loc at any fixed p
    assert (single[1] >= 0).all()
    q = TruncatedLogNormal(loc, scale)
    for statistic in (q.mean, q.variance, q.entropy(), q.log_z, q.log_prob(single[0].detach()).sum(0)):
        assert statistic.isfinite().all()
        for gradient in torch.autograd.grad(statistic.sum(), (loc, scale), retain_graph=True):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loc", "scale"), CASES + FAR_CASES)
def test_draws_follow_the_law(loc: float, scale: float, dtype: torch.dtype) -> None:
    draws = gain([(loc, scale)], dtype).sample((20_000,)).squeeze(-1)
    assert draws.dtype == dtype
    p = gain([(loc, scale)]).cdf(draws.double()).numpy()
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    for tail in (p < 1e-2, p > 1 - 1e-2):
        assert stats.binomtest(int(tail.sum()), len(p), 1e-2).pvalue > 1e-3


def test_gradients_are_summed_over_draws() -> None:
    loc = torch.tensor([-1.0, 0.5], requires_grad=True)
    scale = torch.tensor([0.3, 0.0067], requires_grad=True)
    q = TruncatedLogNormal(loc, scale).expand([64, 2])
    torch.manual_seed(3)
    together = torch.autograd.grad(q.rsample().sum(), (loc, scale))
    torch.manual_seed(3)
    rows = [torch.autograd.grad(row.sum(), (loc, scale), retain_graph=True) for row in q.rsample()]
    for i, gradient in enumerate(together):
        assert gradient.shape == (2,)
        torch.testing.assert_close(gradient, torch.stack([row[i] for row in rows]).sum(0))


def test_one_scalar_parameter_for_all() -> None:
    loc = torch.tensor([-1.0, -2.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    q = TruncatedLogNormal(loc, scale, torch.tensor([[0.01], [0.001]]), 1.0)
    assert q.batch_shape == (2, 2)
    (q.rsample((3,)).sum() + q.mean.sum() + q.entropy().sum()).backward()
    assert loc.grad is not None
    assert scale.grad is not None
    assert scale.grad.shape == ()
    assert q.support.check(q.sample((100,))).all()


def test_expand() -> None:
    q = gain(CASES + FAR_CASES)
    wide = q.expand([64, *q.batch_shape])
    assert type(wide) is TruncatedLogNormal
    assert type(copy.deepcopy(wide)) is TruncatedLogNormal
    assert wide.loc.shape == wide.scale.shape == wide.mean.shape == wide.batch_shape == (64, 9)
    assert wide.rsample((2,)).shape == (2, 64, 9)
    assert all(column.unique().numel() == 64 for column in wide.sample().T)
    value = q.sample((64,))
    assert torch.equal(wide.log_prob(value), q.log_prob(value))
    assert wide.expand([2, 64, 9]).batch_shape == (2, 64, 9)
    single = TruncatedLogNormal(torch.tensor([0.5]), torch.tensor([0.0067])).expand([3, 4])
    assert single.sample().unique().numel() == 12
    with pytest.raises(RuntimeError):
        q.expand([64, 3])


def test_results_are_over_the_whole_batch() -> None:
    q = gain(CASES)
    wide = q.expand([3, *q.batch_shape])
    theta = q.mode
    for ours, column in ((wide.log_prob(theta), q.log_prob(theta)), (wide.cdf(theta), q.cdf(theta))):
        assert torch.equal(ours, column.expand(3, -1))
    assert torch.equal(wide.to_event(1).log_prob(theta), q.log_prob(theta).sum().expand(3))
    half = torch.tensor(0.5, dtype=torch.float64)
    assert wide.log_prob(half).shape == wide.cdf(half).shape == wide.icdf(half).shape == wide.batch_shape


def test_outside_the_interval() -> None:
    q = TruncatedLogNormal(-1.0, 1.0, 0.1, 1.0, validate_args=False)
    value = torch.tensor([0.05, 0.5, 1.5])
    assert q.log_prob(value).isfinite().tolist() == [False, True, False]
    assert q.cdf(torch.tensor([-1.0, 0.0, 0.05, 1.5])).tolist() == pytest.approx([0, 0, 0, 1], abs=1e-6)
    with pytest.raises(ValueError, match="support"):
        TruncatedLogNormal(-1.0, 1.0, 0.1, 1.0, validate_args=True).log_prob(value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0.0, -1.0), "scale"),
        ((math.nan, 1.0), "loc"),
        ((0.0, 1.0, 0.0, 1.0), "low"),
        ((0.0, 1.0, 2.0, 1.0), "low"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[float, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TruncatedLogNormal(*arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_same_numbers_on_an_accelerator() -> None:
    here = gain(CASES + FAR_CASES)
    there = TruncatedLogNormal(here.loc.cuda(), here.scale.cuda())
    p = torch.rand(64, 9, dtype=torch.float64)
    torch.testing.assert_close(there.icdf(p.cuda()).cpu(), here.icdf(p))
    torch.testing.assert_close(there.mean.cpu(), here.mean)
    theta = here.icdf(p)
    torch.testing.assert_close(there.log_prob(theta.cuda()).cpu(), here.log_prob(theta))
    assert there.rsample((4,)).is_cuda
    prior = LogUniform()
    torch.testing.assert_close(kl_divergence(there, prior).cpu(), kl_divergence(here, prior))
    torch.testing.assert_close(prior.log_prob(theta.cuda()).cpu(), prior.log_prob(theta))
    torch.testing.assert_close(prior.icdf(p.cuda()).cpu(), prior.icdf(p))
