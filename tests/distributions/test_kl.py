"""KL(TruncatedLogNormal || LogUniform): values, gradients, and its place in Pyro."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import mpmath as mp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import kl_divergence

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.distributions.central import Central, outside
from bmrs_pyro.distributions.joint_draw import draw_with_kl
from tests.distributions import reference

RTOL = {torch.float64: 1e-9, torch.float32: 1e-3}


def grid(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    loc = torch.linspace(-60, 40, 101, dtype=dtype).repeat_interleave(25)
    scale = torch.linspace(-7, 5, 25, dtype=dtype).exp().repeat(101)
    return loc.requires_grad_(), scale.requires_grad_()


@pytest.mark.parametrize("dtype", RTOL)
def test_reference_file(dtype: torch.dtype) -> None:
    q = TruncatedLogNormal(reference.reference("loc", dtype), reference.reference("scale", dtype))
    ours = kl_divergence(q, LogUniform())
    assert ours.dtype == dtype
    torch.testing.assert_close(
        ours.double(), reference.reference("kl_to_prior"), rtol=RTOL[dtype], atol=1e-12
    )


@pytest.mark.parametrize(("low", "high"), [(-20.0, 0.0), (-3.0, -2.9), (-45.0, 2.0)])
def test_value_and_gradient_to_50_digits(low: float, high: float) -> None:
    loc, scale = (x[::37] for x in grid(torch.float64))
    q = TruncatedLogNormal(loc, scale, math.exp(low), math.exp(high))
    kl = kl_divergence(q, LogUniform(math.exp(low), math.exp(high)))
    gradients = torch.autograd.grad(kl.sum(), (loc, scale))
    bounds = mp.mpf(math.exp(low)), mp.mpf(math.exp(high))
    with mp.workdps(60):
        for i, point in enumerate(zip(loc.tolist(), scale.tolist(), strict=True)):
            assert kl[i].item() == pytest.approx(float(reference.kl(*point, *bounds)), rel=1e-9, abs=1e-12)
            for gradient, order in zip(gradients, [(1, 0), (0, 1)], strict=True):
                truth = mp.diff(lambda m, s: reference.kl(m, s, *bounds), point, order)
                assert gradient[i].item() == pytest.approx(float(truth), rel=1e-6, abs=1e-12)


def test_closed_form_to_nine_digits_next_to_its_limits() -> None:
    """Where loc lies three scales beside the interval, and where the interval is a third of a scale long."""
    points = [
        (t, s) for s in (0.01, 0.5, 3.0, 15.0) for t in (-20 - 3.1 * s, -20 - 2.9 * s, -7.0, s, 2.99 * s)
    ]
    points += [(t, s) for s in (30.0, 45.0, 62.0, 62.4, 62.6, 64.0) for t in (-20.0, -10.0, -9.0, 0.0, 10.0)]
    loc, scale = torch.tensor(points, dtype=torch.float64).T.clone().requires_grad_()
    kl = kl_divergence(TruncatedLogNormal(loc, scale), LogUniform())
    gradients = torch.autograd.grad(kl.sum(), (loc, scale))
    bounds = mp.mpf(math.exp(-20.0)), mp.mpf(1)
    cut = Central.of(loc.detach(), scale.detach(), LogUniform().log_low, LogUniform().log_high)
    assert 4 < int(outside(cut.edge, cut.mass).sum()) < len(points) - 12
    with mp.workdps(60):
        for i, point in enumerate(points):
            assert kl[i].item() == pytest.approx(float(reference.kl(*point, *bounds)), rel=1e-9, abs=0)
            for gradient, order in zip(gradients, [(1, 0), (0, 1)], strict=True):
                truth = mp.diff(lambda m, s: reference.kl(m, s, *bounds), point, order)
                assert gradient[i].item() == pytest.approx(float(truth), rel=1e-6, abs=1e-12)


def test_torch_func_differentiates_draws_quantiles_and_kl() -> None:
    """Gradients and Jacobians by torch.func are those of autograd, for closed and for other forms at once."""
    loc, scale = (
        torch.tensor([-1.0, 3.0, -50.0, -9.0]).double(),
        torch.tensor([0.5, 0.1, 0.3, 200.0]).double(),
    )

    def kl(loc: Tensor, scale: Tensor) -> Tensor:
        return kl_divergence(TruncatedLogNormal(loc, scale, validate_args=False), LogUniform())

    def quantile(loc: Tensor, scale: Tensor) -> Tensor:
        return TruncatedLogNormal(loc, scale, validate_args=False).icdf(torch.tensor(0.3).double())

    def drawn(loc: Tensor, scale: Tensor) -> Tensor:
        torch.manual_seed(0)
        return TruncatedLogNormal(loc, scale, validate_args=False).rsample()

    def total(function: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
        return function(*parameters).sum()

    for function in (kl, quantile, drawn):
        leaves = loc.clone().requires_grad_(), scale.clone().requires_grad_()
        expected = torch.autograd.grad(function(*leaves).sum(), leaves)
        found = torch.func.grad(partial(total, function), argnums=(0, 1))(loc, scale)
        jacobian = torch.func.jacrev(function, argnums=(0, 1))(loc, scale)
        for truth, gradient, rows in zip(expected, found, jacobian, strict=True):
            torch.testing.assert_close(gradient, truth, rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(rows, torch.diag(truth), rtol=1e-8, atol=1e-12)
    each = torch.func.vmap(kl)(loc, scale)
    torch.testing.assert_close(each, kl(loc, scale), rtol=1e-9, atol=1e-12)


def test_float32_is_stable_over_the_whole_grid() -> None:
    single, double = grid(torch.float32), grid(torch.float64)
    with torch.no_grad():
        for ours, truth in zip(single, double, strict=True):
            truth.copy_(ours)
    kl, exact = (kl_divergence(TruncatedLogNormal(*x), LogUniform()) for x in (single, double))
    torch.testing.assert_close(kl.double(), exact, rtol=1e-6, atol=0)
    assert (kl > 0).all()
    gradients = torch.autograd.grad(kl.sum(), single)
    for ours, truth in zip(gradients, torch.autograd.grad(exact.sum(), double), strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=1e-30)
    # a wider posterior is nearer to the prior; so is one whose loc lies nearer to the interval
    assert (gradients[1] <= 0).all()
    assert (gradients[0][single[0] > 0] >= 0).all()
    assert (gradients[0][single[0] < -20] <= 0).all()


def test_gradcheck() -> None:
    loc = torch.tensor([[-10.0, -3.0], [0.01, -25.0]], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([2.0, 0.3], dtype=torch.float64, requires_grad=True)
    low = torch.tensor([[1e-6], [1e-3]], dtype=torch.float64)

    def kl(loc: Tensor, scale: Tensor) -> Tensor:
        return kl_divergence(TruncatedLogNormal(loc, scale, low, 1.0), LogUniform(low, 1.0))

    assert gradcheck(kl, (loc, scale), rtol=1e-4)
    assert gradcheck(kl, (loc, torch.tensor(0.7, dtype=torch.float64, requires_grad=True)), rtol=1e-4)


def test_between_two_log_uniforms() -> None:
    wide, narrow = LogUniform(0.001, 1.0), LogUniform(0.1, torch.tensor([0.5, 1.0, 2.0]))
    expected = [math.log(math.log(1000) / math.log(5)), math.log(3), math.inf]
    torch.testing.assert_close(kl_divergence(narrow, wide), torch.tensor(expected))
    assert kl_divergence(wide, wide) == 0
    assert kl_divergence(wide.expand([4, 1]), narrow).shape == (4, 3)


def test_between_two_truncated_log_normals() -> None:
    """By a rule of 4000 nodes over all of the interval; gradients by finite differences of that."""
    places = torch.tensor([[-1.0, 0.5], [3.0, 1.0], [-25.0, 2.0], [-8.0, 30.0]]).double()
    low, high = math.exp(-6.0), 1.0
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(4000))
    u = (nodes - 1) * 3.0

    def truth(m: Tensor, s: Tensor, other: Tensor) -> Tensor:
        def log_density(m: Tensor, s: Tensor) -> Tensor:
            exponent = -0.5 * ((u - m) / s) ** 2
            return exponent - (exponent.exp() * weights * 3.0).sum().log()

        log_q = log_density(m, s)
        return (log_q.exp() * weights * 3.0 * (log_q - log_density(*other))).sum()

    for m, s in places:
        for other in places:
            m, s = m.detach().clone().requires_grad_(), s.detach().clone().requires_grad_()
            ours = kl_divergence(
                TruncatedLogNormal(m, s, low, high), TruncatedLogNormal(other[0], other[1], low, high)
            )
            exact = truth(m, s, other)
            torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-10)
            for found, expected in zip(
                torch.autograd.grad(ours, (m, s)), torch.autograd.grad(exact, (m, s)), strict=True
            ):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    wider = TruncatedLogNormal(-1.0, 1.0, 0.01, 1.0)
    assert kl_divergence(TruncatedLogNormal(-1.0, 1.0, 0.001, 1.0), wider) == math.inf
    assert kl_divergence(wider.expand([2, 3]), wider).shape == (2, 3)


def test_posterior_on_a_part_of_the_prior() -> None:
    q = TruncatedLogNormal(torch.tensor(-2.0, dtype=torch.float64), 1.5, 0.01, 0.5)
    prior = LogUniform(0.001, 1.0)
    theta = q.icdf((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    by_quadrature = (q.log_prob(theta) - prior.log_prob(theta)).mean()
    torch.testing.assert_close(kl_divergence(q, prior), by_quadrature, rtol=1e-4, atol=0)


def test_posterior_outside_the_prior() -> None:
    q = TruncatedLogNormal(
        torch.tensor([-2.0, -2.0], requires_grad=True), 1.5, 0.01, torch.tensor([0.5, 2.0])
    )
    kl = kl_divergence(q, LogUniform(0.001, 1.0))
    assert kl.isfinite().tolist() == [True, False]
    assert kl[1] == math.inf
    # bounds that passed through float32 are the same bounds
    rounded = TruncatedLogNormal(-2.0, 1.0, torch.tensor(math.exp(-20.0)), torch.tensor(1.0))
    assert kl_divergence(rounded, LogUniform()).isfinite()


def test_expansion_shares_one_evaluation() -> None:
    loc = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    q, prior = TruncatedLogNormal(loc, torch.full((3,), 0.1)), LogUniform()
    kl = kl_divergence(q.expand([64, 3]), prior.expand([64, 3]))
    assert kl.shape == (64, 3)
    assert kl.stride(0) == 0
    assert torch.equal(kl[7], kl_divergence(q, prior))
    (gradient,) = torch.autograd.grad(kl.sum(), loc)
    (once,) = torch.autograd.grad(kl_divergence(q, prior).sum(), loc)
    torch.testing.assert_close(gradient, 64 * once)


def test_elbo_is_analytic_and_trains() -> None:
    """Two losses are equal only if no draw enters them: TraceMeanField_ELBO found the KL, through Independent."""
    loc = torch.tensor([-1.0, -4.0, 0.3])

    def model() -> None:
        with pyro.plate("batch", 5):
            pyro.sample("theta", LogUniform().expand([5, 3]).to_event(1))

    def guide() -> None:
        place = pyro.param("loc", loc.clone())
        scale = pyro.param("scale", torch.full((3,), 0.2), constraint=dist.constraints.positive)
        with pyro.plate("batch", 5):
            pyro.sample("theta", TruncatedLogNormal(place, scale).expand([5, 3]).to_event(1))

    elbo = TraceMeanField_ELBO()
    exact = 5 * kl_divergence(TruncatedLogNormal(loc, 0.2), LogUniform()).sum().item()
    assert elbo.loss(model, guide) == elbo.loss(model, guide) == pytest.approx(exact, rel=1e-6)
    svi = SVI(model, guide, ClippedAdam({"lr": 0.05}), elbo)
    for _ in range(300):
        svi.step()
    assert svi.evaluate_loss() < 0.05 * exact


def test_monte_carlo_elbo_agrees() -> None:
    q, prior = TruncatedLogNormal(torch.tensor([-1.0, 0.3]), torch.tensor([0.5, 0.0067])), LogUniform()
    theta = q.sample((40_000,))
    terms = q.log_prob(theta) - prior.log_prob(theta)
    error = (terms.mean(0) - kl_divergence(q, prior)).abs() / (terms.std(0) / 200)
    assert (error < 4).all()


def _of_one_draw(loc: Tensor) -> Tensor:
    theta, kl = draw_with_kl(loc, torch.full_like(loc, 2.0), LogUniform(), torch.full_like(loc, 0.4))
    return theta + kl


@pytest.mark.parametrize(
    "function",
    [
        lambda loc: kl_divergence(TruncatedLogNormal(loc, torch.full_like(loc, 2.0)), LogUniform()),
        lambda loc: TruncatedLogNormal(loc, torch.full_like(loc, 2.0)).rsample(),
        lambda loc: TruncatedLogNormal(loc, torch.full_like(loc, 2.0)).icdf(torch.full_like(loc, 0.4)),
        _of_one_draw,
    ],
)
def test_second_derivatives_raise(function: Callable[[Tensor], Tensor]) -> None:
    """They were computed without this function's part: of f(loc) + loc², the Hessian was that of loc² alone."""
    loc = torch.tensor([-3.0, 20.0], dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    (once,) = torch.autograd.grad(function(loc).sum(), loc)
    torch.manual_seed(0)
    (graph,) = torch.autograd.grad((function(loc) + loc**2).sum(), loc, create_graph=True)
    torch.testing.assert_close(graph, once + 2 * loc)
    with pytest.raises(NotImplementedError, match="have no second derivatives with respect to loc and scale"):
        torch.autograd.grad(graph.sum(), loc)
    with pytest.raises(NotImplementedError, match="have no second derivatives"):
        torch.autograd.functional.hessian(lambda x: (function(x) + x**2).sum(), loc)
