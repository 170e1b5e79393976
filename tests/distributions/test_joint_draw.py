"""The fused draw and KL of a training step against the distribution's own, eager and compiled."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.distributions.central import uniforms
from bmrs_pyro.distributions.joint_draw import EAGER, Kernels, compiled_kernels, draw_with_kl

compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


def distributions(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Modes inside, on a bound, and so far outside that the exact inverse takes over; narrow and wide."""
    loc = torch.tensor([-60.0, -21.0, -19.9, -10.0, -0.1, 0.0, 0.01, 0.3, 40.0], dtype=dtype)
    scale = torch.tensor([0.0067, 0.05, 0.4, 3.0, 130.0], dtype=dtype)
    loc, scale = (x.flatten() for x in torch.meshgrid(loc, scale, indexing="ij"))
    return loc.requires_grad_(), scale.requires_grad_()


def by_the_distribution(loc: Tensor, scale: Tensor, prior: LogUniform, p: Tensor) -> tuple[Tensor, Tensor]:
    q = TruncatedLogNormal(loc, scale, prior.low, prior.high)
    return q.icdf(p.double()).to(loc.dtype), kl_divergence(q, prior)


def values_and_gradients(kernels: Kernels | None, dtype: torch.dtype, draws: tuple[int, ...]) -> list[Tensor]:
    loc, scale = distributions(dtype)
    prior = LogUniform()
    p = uniforms((*draws, len(loc)), dtype, loc.device, torch.Generator().manual_seed(1))
    theta, kl = (
        by_the_distribution(loc, scale, prior, p)
        if kernels is None
        else draw_with_kl(loc, scale, prior, p, kernels)
    )
    torch.manual_seed(2)
    loss = (theta * torch.randn_like(theta)).sum() + (kl * torch.rand_like(kl)).sum()
    return [theta.detach(), kl.detach(), *torch.autograd.grad(loss, (loc, scale))]


@pytest.mark.parametrize("draws", [(), (64,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_distribution_in_value_and_gradient(dtype: torch.dtype, draws: tuple[int, ...]) -> None:
    """The closed form against the quantile and the KL that are exact everywhere."""
    exact = values_and_gradients(None, dtype, draws)
    # gradients are sums over 64 draws
    rtol, of_sums, atol = (2e-6, 1e-5, 1e-6) if dtype == torch.float32 else (1e-9, 1e-9, 1e-8)
    for kernels in (EAGER, EAGER.branch_free()):
        theta, kl, *gradients = zip(values_and_gradients(kernels, dtype, draws), exact, strict=True)
        for ours, expected in (theta, kl):
            assert ours.dtype == expected.dtype == dtype
            torch.testing.assert_close(ours, expected, rtol=rtol, atol=1e-8)
        for ours, expected in gradients:
            torch.testing.assert_close(ours, expected, rtol=of_sums, atol=atol)


@pytest.mark.parametrize("end", [0, 1])
def test_draws_in_the_far_tail_keep_their_digits(end: int) -> None:
    """The least uniform numbers there are in float32, from both ends, on both sides of the closed form's limits."""
    slopes = torch.tensor([-40.0, -5.0, -3.1, -2.9, -1.0, 0.0, 1.0, 2.9, 3.1, 5.0, 40.0])
    low, high = math.log(LogUniform().low), 0.0
    for scale in (0.05, 1.0, 15.0, 40.0):
        bound = torch.where(slopes < 0, high, low)
        loc = (bound - slopes * scale).requires_grad_()
        p = torch.tensor([2**-24, 2**-20, 2**-12]).unsqueeze(-1).expand(-1, len(loc))
        p = 1 - p if end else p
        theta, _ = draw_with_kl(loc, torch.full_like(loc, scale), LogUniform(), p)
        exact = loc.detach().double().requires_grad_()
        expected = TruncatedLogNormal(exact, torch.full_like(exact, scale)).icdf(p.double())
        torch.testing.assert_close(
            theta.double().log(), expected.log(), rtol=1e-6, atol=2e-6 * max(scale, 1.0)
        )
        (gradient,) = torch.autograd.grad((theta / theta.detach()).sum(), loc)
        (truth,) = torch.autograd.grad((expected / expected.detach()).sum(), exact)
        torch.testing.assert_close(gradient.double(), truth, rtol=1e-4, atol=1e-4)


def test_quantiles_on_both_sides_of_the_limits_have_the_mass_below() -> None:
    scale = torch.full((5,), 0.1, dtype=torch.float64)
    loc = scale * torch.tensor([1.1, 2.9, 3.1, 5.01, 40.0], dtype=torch.float64)
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64).unsqueeze(-1).expand(-1, 5)
    theta, _ = draw_with_kl(loc, scale, LogUniform(), p)
    torch.testing.assert_close(TruncatedLogNormal(loc, scale).cdf(theta), p, rtol=0, atol=1e-10)


def test_ends_of_the_unit_interval() -> None:
    loc, scale = distributions(torch.float64)
    prior = LogUniform()
    p = torch.tensor([[0.0], [1.0 - 2.0**-53]], dtype=torch.float64).expand(2, len(loc))
    theta, _ = draw_with_kl(loc, scale, prior, p)
    theta.sum().backward()
    assert ((theta >= prior.low) & (theta <= prior.high)).all()
    assert loc.grad.isfinite().all()
    assert scale.grad.isfinite().all()


@compiler
@pytest.mark.slow
def test_compiled_equals_eager_at_every_size() -> None:
    """One compilation serves all numbers of structures and examples."""
    kernels = compiled_kernels()
    for draws in [(64,), (33,), ()]:
        for ours, eager in zip(
            values_and_gradients(kernels, torch.float32, draws),
            values_and_gradients(EAGER, torch.float32, draws),
            strict=True,
        ):
            torch.testing.assert_close(ours, eager, rtol=1e-6, atol=1e-9)
    with torch._dynamo.config.patch(error_on_recompile=True):
        prior = LogUniform()
        for size in (17, 5, 3):
            loc = torch.linspace(-20, 0, size, requires_grad=True)
            p = torch.rand(64, size, dtype=torch.float64)
            theta, kl = draw_with_kl(loc, torch.ones(size), prior, p, kernels)
            (theta.sum() + kl.sum()).backward()
            exact = kl_divergence(TruncatedLogNormal(loc.detach(), torch.ones(size)), prior)
            torch.testing.assert_close(kl, exact, rtol=1e-6, atol=0)
