"""Gaussian model reduction against quadrature, the published form and exact evidences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.distributions import Independent, Normal

from bmrs_pyro.reduction import delta_f, reduced_posterior

mp.dps = 40

# (posterior, prior, reduced) as (mean, standard deviation); precise posteriors, far means, narrow and wide p̃
CASES = [
    ((0.0, 0.5), (0.0, 1.0), (0.0, 1e-8)),
    ((1.3, 0.05), (0.0, 1.0), (0.0, 1e-8)),
    ((-0.4, 0.9), (0.0, 1.0), (0.0, 0.1)),
    ((2.0, 0.3), (0.0, 1.0), (0.0, 3.0)),
    ((0.7, 0.2), (0.5, 2.0), (-0.3, 0.4)),
    ((0.1, 0.02), (0.0, 0.1), (0.05, 1e-8)),
    ((3.0, 0.01), (0.0, 1.0), (2.5, 0.2)),
    ((0.2, 1.05), (0.0, 1.0), (0.0, 1.2)),
]


def distributions(case: tuple[tuple[float, float], ...], dtype: torch.dtype = torch.float64) -> list[Normal]:
    return [Normal(torch.tensor(mean, dtype=dtype), torch.tensor(scale, dtype=dtype)) for mean, scale in case]


def tilted_moments(case: tuple[tuple[float, float], ...]) -> tuple[mpf, mpf, mpf]:
    """The logarithm of ∫ q p̃/p, mean and deviation of the normalised integrand, by quadrature around p̃ and q."""

    def density(x: mpf, mean: float, scale: float) -> mpf:
        return mp.npdf(x, mpf(mean), mpf(scale))

    q, p, reduced = case
    ends = sorted(
        {mpf(m) + k * mpf(s) for m, s in (q, reduced) for k in (-30, -12, -6, -3, -1, 0, 1, 3, 6, 12, 30)}
    )

    def moment(power: int) -> mpf:
        return mp.quad(lambda x: x**power * density(x, *q) * density(x, *reduced) / density(x, *p), ends)

    mass = moment(0)
    mean = moment(1) / mass
    return mp.log(mass), mean, mp.sqrt(moment(2) / mass - mean**2)


@pytest.mark.parametrize("case", CASES)
def test_delta_f_and_reduced_posterior_by_quadrature(case: tuple[tuple[float, float], ...]) -> None:
    log_mass, mean, deviation = tilted_moments(case)
    found = delta_f(*distributions(case))
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(float(log_mass), rel=1e-10, abs=1e-10)
    reduced = reduced_posterior(*distributions(case))
    assert reduced.loc.item() == pytest.approx(float(mean), rel=1e-9, abs=1e-12)
    assert reduced.scale.item() == pytest.approx(float(deviation), rel=1e-9)


def test_published_form() -> None:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(1000, generator=generator, dtype=torch.float64)
    pi = 1 + torch.rand(1000, generator=generator, dtype=torch.float64).mul(6).exp()
    sigma_squared, gamma_squared = 1.0, 1e-16
    growth = gamma_squared * (pi - 1 / sigma_squared) + 1
    reduced_mean = pi * mu * gamma_squared / growth
    published = (
        -growth.log() / 2 + (pi * sigma_squared).log() / 2 - pi * mu**2 / 2 + pi * mu * reduced_mean / 2
    )
    zero = torch.zeros(1000, dtype=torch.float64)
    posterior, prior = Normal(mu, pi**-0.5), Normal(zero, math.sqrt(sigma_squared))
    reduced = Normal(zero, math.sqrt(gamma_squared))
    torch.testing.assert_close(delta_f(posterior, prior, reduced), published, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        reduced_posterior(posterior, prior, reduced).loc, reduced_mean, rtol=1e-10, atol=0
    )


def test_the_prior_itself_changes_nothing() -> None:
    posterior, prior = Normal(torch.randn(50), torch.rand(50) + 0.01), Normal(torch.zeros(50), torch.ones(50))
    torch.testing.assert_close(delta_f(posterior, prior, prior), torch.zeros(50, dtype=torch.float64))
    again = reduced_posterior(posterior, prior, prior)
    torch.testing.assert_close(again.loc, posterior.loc.double(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(again.scale, posterior.scale.double(), rtol=1e-6, atol=1e-7)


def test_groups_are_sums() -> None:
    posterior = Normal(torch.randn(4, 3, 2), torch.rand(4, 3, 2) + 0.01)
    prior, reduced = Normal(torch.zeros(4, 3, 2), 1.0), Normal(torch.zeros(4, 3, 2), 1e-8)
    elementwise = delta_f(posterior, prior, reduced)
    for dims in (1, 2, 3):
        group = delta_f(*(Independent(distribution, dims) for distribution in (posterior, prior, reduced)))
        torch.testing.assert_close(group, elementwise.sum(tuple(range(-dims, 0))))
    with pytest.raises(ValueError, match="use one to_event"):
        delta_f(Independent(posterior, 1), Independent(prior, 2), Independent(reduced, 2))


def test_posterior_wider_than_its_prior() -> None:
    case = ((0.0, 2.0), (0.0, 1.0), (0.0, 5.0))
    assert delta_f(*distributions(case)).item() == math.inf
    with pytest.raises(ValueError, match="wider than their prior"):
        reduced_posterior(*distributions(case))


def test_gradient_by_the_reduced_scale() -> None:
    posterior, prior = Normal(torch.tensor([0.5, -1.0]).double(), 0.3), Normal(torch.zeros(2).double(), 1.0)
    gamma = torch.tensor([0.4, 1.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda scale: delta_f(posterior, prior, Normal(torch.zeros_like(scale), scale)), (gamma,)
    )


def exact_regression(design: np.ndarray, prior_scales: np.ndarray, noise: float, y: np.ndarray) -> float:
    """Log evidence of y = Xβ + ε, from the marginal distribution of y."""
    covariance = (design * prior_scales**2) @ design.T + noise**2 * np.eye(len(y))
    return float(multivariate_normal.logpdf(y, np.zeros(len(y)), covariance))


@pytest.mark.parametrize("gamma", [1e-8, 0.05, 2.0])
def test_exact_evidence_ratio_of_single_coefficients(gamma: float) -> None:
    rng = np.random.default_rng(1)
    n, p, noise, scale = 40, 6, 0.7, 1.3
    design = rng.normal(size=(n, p)) @ (np.eye(p) + 0.4)  # correlated
    y = design @ np.array([1.5, 0, 0, -0.8, 0, 0.1]) + noise * rng.normal(size=n)
    covariance = np.linalg.inv(design.T @ design / noise**2 + np.eye(p) / scale**2)
    mean = covariance @ design.T @ y / noise**2
    posterior = Normal(torch.tensor(mean), torch.tensor(np.sqrt(np.diag(covariance))))
    zero = torch.zeros(p, dtype=torch.float64)
    found = delta_f(posterior, Normal(zero, scale), Normal(zero, gamma))
    full = np.full(p, scale)
    for j in range(p):
        reduced = full.copy()
        reduced[j] = gamma
        ratio = exact_regression(design, reduced, noise, y) - exact_regression(design, full, noise, y)
        assert found[j].item() == pytest.approx(ratio, abs=1e-6)


def test_exact_evidence_ratio_of_a_group() -> None:
    """With an orthogonal design the posterior factorises, and the group's ΔF is the joint evidence ratio."""
    rng = np.random.default_rng(2)
    n, p, noise = 30, 5, 0.5
    design = np.linalg.qr(rng.normal(size=(n, p)))[0] * 4
    y = design @ np.array([1.0, 0, 0.2, 0, -0.4]) + noise * rng.normal(size=n)
    precision = 16 / noise**2 + 1
    mean = torch.tensor(design.T @ y / noise**2 / precision)
    group = slice(1, 4)
    zero = torch.zeros(3, dtype=torch.float64)
    found = delta_f(
        Independent(Normal(mean[group], precision**-0.5), 1),
        Independent(Normal(zero, 1.0), 1),
        Independent(Normal(zero, 1e-8), 1),
    )
    reduced = np.ones(p)
    reduced[group] = 1e-8
    ratio = exact_regression(design, reduced, noise, y) - exact_regression(design, np.ones(p), noise, y)
    assert isinstance(found, Tensor)
    assert found.item() == pytest.approx(ratio, abs=1e-6)
