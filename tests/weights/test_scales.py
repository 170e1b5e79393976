"""Scale priors against scipy and quadrature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import integrate, stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import kl_divergence

from bmrs_pyro.weights import MeanField, WeightModel, layer_scale, regularised_horseshoe, weight_layers
from bmrs_pyro.weights.scales import Scales
from tests.weights.programs import FEATURES, categorical, mlp

FIRST, *_, LAST = weight_layers(mlp())


@pytest.mark.parametrize(("m", "s"), [(0.0, 0.1), (-2.0, 1.5), (1.3, 0.7), (-6.0, 3.0)])
@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (0.5, 1.0), (2.0, 6.0)])
def test_kl_from_log_normal_to_gamma(m: float, s: float, a: float, b: float) -> None:
    q, p = stats.norm(m, s), stats.gamma(a, scale=1 / b)

    def integrand(log_u: float) -> float:
        return q.pdf(log_u) * (q.logpdf(log_u) - p.logpdf(math.exp(log_u)) - log_u)

    expected = integrate.quad(integrand, m - 12 * s, m + 12 * s, epsabs=1e-10, limit=400)[0]
    distribution = dist.LogNormal(torch.tensor(m).double(), torch.tensor(s).double())
    found = kl_divergence(distribution, dist.Gamma(torch.tensor(a).double(), torch.tensor(b).double()))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_layer_scale() -> None:
    u = torch.tensor(2.3)
    with poutine.condition(data={"weights.0_precision": u}):
        torch.testing.assert_close(layer_scale(FIRST), 0.1 / u.sqrt())
    with poutine.condition(data={"weights.4_precision": torch.tensor(4.0)}):
        assert layer_scale(LAST).item() == pytest.approx(0.5)


def test_horseshoe_of_the_last_layer_is_half_cauchy() -> None:
    draws = np.array([regularised_horseshoe(LAST).item() for _ in range(2000)])
    assert stats.kstest(draws, stats.halfcauchy.cdf).pvalue > 1e-3


def test_regularised_horseshoe_formula() -> None:
    rows, columns = FIRST.shape
    slab, tau, local = torch.tensor(0.4), torch.rand(2, rows, 1), torch.rand(2, rows, columns)
    with poutine.condition(data={"weights.0_slab": slab, "weights.0_tau": tau, "weights.0_lambda": local}):
        gamma = regularised_horseshoe(FIRST)
    assert gamma.shape == FIRST.shape
    psi, c_squared = 0.01 * (tau[0] / tau[1]).sqrt() * (local[0] / local[1]).sqrt(), 1 / slab
    torch.testing.assert_close(gamma, (c_squared * psi**2 / (c_squared + psi**2)).sqrt())
    assert (gamma <= c_squared.sqrt()).all()


def test_horseshoe_draws_mostly_nothing_and_some_slab() -> None:
    pyro.set_rng_seed(1)
    gamma = torch.cat([regularised_horseshoe(FIRST).flatten() for _ in range(300)])
    assert 0.003 < gamma.median() < 0.03  # τ₀ times the median of a product of two half-Cauchy variables, 1
    assert 0.002 < (gamma > 0.5).float().mean() < 0.1


@pytest.mark.parametrize("scales", [layer_scale, regularised_horseshoe])
def test_all_is_drawn_on_the_networks_device(scales: Scales) -> None:
    with pyro.validation_enabled(False), FakeTensorMode():
        with torch.device("cuda"):
            net, x = mlp(), torch.zeros(5, FEATURES)
        model = WeightModel(net, categorical, 10, scales=scales)
        guide = MeanField(model.draw)
        prior = poutine.trace(model.draw).get_trace()
        posterior = poutine.trace(guide).get_trace()
        output = poutine.replay(model.output, trace=posterior)(x)
    assert {site["value"].device.type for _, site in prior.iter_stochastic_nodes()} == {"cuda"}
    assert guide.loc.device.type == output.device.type == "cuda"
    for name, site in posterior.iter_stochastic_nodes():
        distributions: tuple[Any, Any] = site["fn"], prior.nodes[name]["fn"]
        assert kl_divergence(*distributions).device.type == "cuda"


@pytest.mark.parametrize(
    ("scales", "error", "match"),
    [
        (3.0, TypeError, "scales is 3.0; give a function"),
        (lambda layer: 0.1, TypeError, r"is 0.1; give a tensor, such as torch.tensor\(0.1\)"),
        (lambda layer: torch.tensor(0.0), ValueError, "holds 0; scales are positive and finite"),
        (lambda layer: torch.tensor([0.5, -1.0]).mean() - 1, ValueError, "holds -1.25"),
        (lambda layer: torch.tensor(math.nan), ValueError, "holds nan"),
        (
            lambda layer: torch.ones(3),
            ValueError,
            r"has shape \(3,\), which does not broadcast to the layer's matrix",
        ),
        (lambda layer: torch.ones(1, *layer.shape), ValueError, "does not broadcast"),
    ],
)
def test_scales_that_do_not_fit_are_refused(scales: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        WeightModel(mlp(), categorical, 100, scales=scales)


def test_the_check_of_scales_leaves_the_random_state_as_it_is() -> None:
    net, state = mlp(), torch.get_rng_state()
    WeightModel(net, categorical, 100, scales=regularised_horseshoe)
    assert torch.equal(torch.get_rng_state(), state)
