"""ΔF against the reference file, 50-digit quadrature and Monte Carlo; the registry's dispatch."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import IntervalDistribution, LogUniform, TruncatedLogNormal
from bmrs_pyro.reduction import delta_f, low_precision, monte_carlo_delta_f, register_delta_f, spike
from tests.distributions.reference import reference

RTOL = {torch.float64: 1e-9, torch.float32: 1e-3}
REDUCED = {
    "delta_f_spike": spike(LogUniform()),
    "delta_f_bits8": low_precision(8),
    "delta_f_bits4": low_precision(4),
}


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("key", REDUCED)
def test_reference_file(key: str, dtype: torch.dtype) -> None:
    q = TruncatedLogNormal(reference("loc", dtype), reference("scale", dtype))
    ours = delta_f(q, LogUniform(), REDUCED[key])
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, reference(key), rtol=RTOL[dtype], atol=1e-12)


def by_quadrature(
    q: TruncatedLogNormal,
    p: LogUniform,
    reduced: IntervalDistribution,
    log_reduced: Callable[[mp.mpf], mp.mpf],
) -> float:
    """Log ∫ q(u) p̃(u)/p(u) du at 50 digits, over the interval of the reduced prior."""
    loc, scale = mp.mpf(q.loc.item()), mp.mpf(q.scale.item())
    ends = [mp.log(mp.mpf(x.item())) for x in (q.low, q.high)]
    low, high = (mp.log(mp.mpf(x.item())) for x in (reduced.low, reduced.high))
    low, high = max(low, ends[0]), min(high, ends[1])

    def normal(u: mp.mpf) -> mp.mpf:
        return mp.exp(-(((u - loc) / scale) ** 2) / 2)

    steps = [low + (high - low) * k / 40 for k in range(41)]
    whole = [ends[0] + (ends[1] - ends[0]) * k / 40 for k in range(41)]
    width = mp.log(mp.mpf(p.high.item()) / mp.mpf(p.low.item()))
    joint = mp.quad(lambda u: normal(u) * mp.exp(log_reduced(u)), steps)
    return float(mp.log(width * joint / mp.quad(normal, whole)))


@pytest.mark.parametrize(("loc", "scale"), [(-1.0, 0.5), (-4.0, 2.0), (0.8, 0.4), (-9.0, 0.7), (-3.0, 40.0)])
def test_closed_forms_by_quadrature_on_other_intervals(loc: float, scale: float) -> None:
    prior = LogUniform(math.exp(-8.0), 2.0)
    q = TruncatedLogNormal(torch.tensor(loc, dtype=torch.float64), scale, math.exp(-7.5), 1.5)
    uniform = LogUniform(0.01, 1.9)
    flat = -mp.log(mp.log(mp.mpf(1.9) / mp.mpf(0.01)))
    truth = by_quadrature(q, prior, uniform, lambda u: flat)
    assert delta_f(q, prior, uniform).item() == pytest.approx(truth, rel=1e-10, abs=1e-11)

    place, width = mp.mpf(-5), mp.mpf(0.75)
    normal = TruncatedLogNormal(torch.tensor(-5.0, dtype=torch.float64), 0.75, math.exp(-7.9), 1.9)
    alpha, beta = ((mp.log(x.item()) - place) / width for x in (normal.low, normal.high))
    norm = mp.log((mp.ncdf(beta) - mp.ncdf(alpha)) * width * mp.sqrt(2 * mp.pi))
    truth = by_quadrature(q, prior, normal, lambda u: -(((u - place) / width) ** 2) / 2 - norm)
    assert delta_f(q, prior, normal).item() == pytest.approx(truth, rel=1e-10, abs=1e-11)


def test_indifferent_data_give_zero() -> None:
    flat = TruncatedLogNormal(torch.tensor(-10.0, dtype=torch.float64), 1e5)
    for reduced in REDUCED.values():
        assert delta_f(flat, LogUniform(), reduced).item() == pytest.approx(0, abs=1e-7)
    assert delta_f(flat, LogUniform(), LogUniform()).item() == pytest.approx(0, abs=1e-12)


def test_shape_and_batch() -> None:
    q = TruncatedLogNormal(torch.tensor([-1.0, -2.0]), 0.5).expand([3, 2])
    value = delta_f(q, LogUniform().expand([2]), low_precision(4))
    assert value.shape == (3, 2)
    assert torch.equal(value[0], value[2])


def test_reduced_prior_that_excludes_the_posterior() -> None:
    q = TruncatedLogNormal(torch.tensor([-1.0, -2.0]), 0.5, 0.1, 1.0)
    assert (delta_f(q, LogUniform(), low_precision(8)) == -math.inf).all()
    assert (delta_f(q, LogUniform(), TruncatedLogNormal(-9.0, 1.0, 1e-6, 1e-3)) == -math.inf).all()


def test_posterior_outside_the_prior_is_refused() -> None:
    q = TruncatedLogNormal(-1.0, 0.5, 0.1, 2.0)
    for reduced in REDUCED.values():
        with pytest.raises(ValueError, match="reaches outside the prior"):
            delta_f(q, LogUniform(), reduced)


def test_a_reduced_prior_outside_the_prior_is_refused() -> None:
    narrow = LogUniform(1e-3, 1.0)
    q = TruncatedLogNormal(torch.tensor([-6.9, -3.0]), torch.tensor([0.1, 50.0]), 1e-3, 1.0)
    for reduced in (low_precision(8), low_precision(11), TruncatedLogNormal(-9.0, 1.0, 1e-6, 1e-1)):
        with pytest.raises(ValueError, match=r"the reduced prior.s interval .* reaches outside the prior"):
            delta_f(q, narrow, reduced)
    assert delta_f(q, narrow, LogUniform(1e-3, 2.0**-8)).isfinite().all()


@pytest.mark.parametrize(
    "reduced", [low_precision(4), TruncatedLogNormal(-6.0, 2.0)], ids=["uniform", "normal"]
)
def test_monte_carlo_agrees_with_the_closed_forms(reduced: Distribution) -> None:
    q = TruncatedLogNormal(torch.tensor([-6.0, -3.0, -12.0, -5.0]), torch.tensor([1.0, 2.0, 3.0, 100.0]))
    value, error = monte_carlo_delta_f(q, LogUniform(), reduced, num_samples=40_000)
    assert value.dtype == error.dtype == torch.float64
    assert (error < 0.05).all()
    assert ((value - delta_f(q, LogUniform(), reduced)).abs() < 4 * error + 1e-6).all()


def test_standard_error_is_that_of_repeated_runs() -> None:
    q = TruncatedLogNormal(torch.tensor(-4.0), 2.0)
    runs = [monte_carlo_delta_f(q, LogUniform(), low_precision(4), num_samples=1000) for _ in range(200)]
    spread = torch.stack([run.value for run in runs]).std()
    assert spread.item() == pytest.approx(
        torch.stack([run.standard_error for run in runs]).mean().item(), rel=0.2
    )


def test_monte_carlo_without_a_hit_is_not_certain() -> None:
    q = TruncatedLogNormal(torch.tensor([-0.1, -6.0]), 0.01)
    value, error = monte_carlo_delta_f(q, LogUniform(), low_precision(4))
    assert value.isfinite().tolist() == [False, True]
    assert error[0] == math.inf


def test_fallback_warns_with_its_standard_error() -> None:
    q = dist.Gamma(torch.tensor([4.0, 6.0]), 5.0)
    prior, reduced = dist.Gamma(2.0, 1.0), dist.Gamma(3.0, 4.0)
    with pytest.warns(UserWarning, match=r"Gamma, Gamma, Gamma.*standard error of up to 0\.\d+ nats"):
        ours = delta_f(q, prior, reduced)
    theta = torch.linspace(1e-3, 8, 8001).unsqueeze(-1)
    ratio = (q.log_prob(theta) + reduced.log_prob(theta) - prior.log_prob(theta)).exp()
    torch.testing.assert_close(ours.exp(), torch.trapezoid(ratio, theta, dim=0).double(), rtol=0.1, atol=0)


def test_fallback_takes_whole_events() -> None:
    q = dist.Normal(torch.zeros(2, 3), 0.3).to_event(1)
    prior = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    reduced = dist.Uniform(-torch.ones(3), torch.ones(3)).to_event(1)
    value, error = monte_carlo_delta_f(q, prior, reduced)
    assert value.shape == error.shape == (2,)
    assert value.isfinite().all()


WRAPPED = {
    "independent": (lambda q: q.to_event(1), lambda value: value.sum(-1)),
    "masked": (
        lambda q: q.mask(torch.tensor([True, False, True])).to_event(1),
        lambda value: value[0] + value[2],
    ),
    "masked events": (lambda q: q.to_event(1).mask(torch.tensor(False)), lambda value: 0 * value.sum(-1)),
    "expanded": (
        lambda q: dist.ExpandedDistribution(q.to_event(1), [4]),
        lambda value: value.sum(-1).expand(4),
    ),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_wrapped_distributions_have_the_closed_forms_of_what_is_inside(wrapped: str) -> None:
    wrap, total = WRAPPED[wrapped]
    q, prior = (
        TruncatedLogNormal(torch.tensor([-3.5, -2.0, -9.0]), torch.tensor([148.4, 1.0, 2.0])),
        LogUniform(),
    )
    expected = total(delta_f(q, prior, spike(prior)))
    priors = [(prior, spike(prior)), (prior.expand([3]).to_event(1), spike(prior).expand([3]).to_event(1))]
    for p, reduced in priors:
        torch.testing.assert_close(delta_f(wrap(q), p, reduced), expected, rtol=1e-12, atol=0)


def test_wrapped_monte_carlo_agrees_with_quadrature() -> None:
    rates = torch.tensor([4.0, 6.0, 3.0])
    prior, reduced = dist.Gamma(2.0, 1.0), dist.Gamma(3.0, 2.0)
    q = dist.Gamma(rates, 5.0)
    value, error = monte_carlo_delta_f(q.to_event(1), prior, reduced, 20_000)
    theta = torch.linspace(1e-3, 12, 24_001, dtype=torch.float64).unsqueeze(-1)
    ratio = (q.log_prob(theta) + reduced.log_prob(theta) - prior.log_prob(theta)).exp()
    expected = torch.trapezoid(ratio, theta, dim=0).log().sum()
    assert error < 0.05
    assert abs(value - expected) < 4 * error + 1e-4


def test_an_estimate_that_few_draws_carry_is_refused() -> None:
    q, prior = dist.Gamma(torch.tensor([4.0, 4.0]), 5.0), dist.Gamma(2.0, 1.0)
    with pytest.raises(ValueError, match=r"1 of 10000 draws .* register_delta_f"):
        delta_f(q, prior, dist.Gamma(3.0, 1e4))


def test_what_is_no_distribution_is_refused() -> None:
    q, prior = TruncatedLogNormal(torch.zeros(2), torch.ones(2)), LogUniform()
    with pytest.raises(TypeError, match=r"posterior is a dict; .* posteriors\(guide\) holds one by name"):
        delta_f({"theta.0": q}, prior, spike(prior))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reduced is a float"):
        delta_f(q, prior, 0.5)  # type: ignore[arg-type]


def test_events_that_do_not_fit_are_refused() -> None:
    q, prior = TruncatedLogNormal(torch.zeros(2, 3), 1.0), LogUniform()
    with pytest.raises(ValueError, match=r"\(3,\), \(2, 3\), \(\): use one to_event"):
        delta_f(q.to_event(1), prior.expand([2, 3]).to_event(2), spike(prior))


class Base(dist.Normal):
    """A family of its own, for the registry."""


class Derived(Base):
    """A more specific one."""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("bmrs_pyro.reduction.evidence")
    monkeypatch.setattr(module, "_FORMS", dict(module._FORMS))


def constant(number: float) -> Callable[..., Tensor]:
    return lambda *_: torch.tensor(number, dtype=torch.float64)


@pytest.mark.usefixtures("registry")
def test_registry_finds_the_most_specific_form() -> None:
    register_delta_f(Base, Base, Base)(constant(1.0))
    base, derived = Base(torch.zeros(2), 1.0), Derived(torch.zeros(2), 1.0)
    assert delta_f(derived, derived, derived).tolist() == [1.0, 1.0]
    register_delta_f(Derived, Base, Base)(constant(2.0))
    assert delta_f(derived, base, derived).tolist() == [2.0, 2.0]
    assert delta_f(base, derived, derived).tolist() == [1.0, 1.0]
    register_delta_f(Base, Derived, Base)(constant(3.0))
    assert delta_f(base, derived, derived).tolist() == [3.0, 3.0]
    with pytest.warns(
        RuntimeWarning, match=r"ambiguous between \(Derived, Base, Base\) and \(Base, Derived, Base\)"
    ):
        assert delta_f(derived, derived, base).tolist() == [2.0, 2.0]


@pytest.mark.usefixtures("registry")
def test_register_is_a_decorator() -> None:
    @register_delta_f(Base, LogUniform, LogUniform)
    def form(posterior: Base, prior: LogUniform, reduced: LogUniform) -> Tensor:
        return torch.tensor(7.0, dtype=torch.float64)

    assert form.__name__ == "form"
    assert delta_f(Base(torch.zeros(3), 1.0), LogUniform(), LogUniform()).tolist() == [7.0] * 3
    with pytest.raises(TypeError, match="Distribution types"):
        register_delta_f(Base, LogUniform, 3)  # type: ignore[arg-type]


def test_many_structures_are_decided_as_few_are() -> None:
    # beyond a few thousand the normalisers are summed in blocks, equal but for the rounding of vectorised exp
    random = torch.Generator().manual_seed(0)
    loc = torch.empty(3, 4001, dtype=torch.float64).uniform_(-20, 2, generator=random)
    scale = torch.empty(4001, dtype=torch.float64).uniform_(0.01, 30, generator=random)
    prior = LogUniform()
    for reduced in (spike(prior), low_precision(8)):
        together = delta_f(TruncatedLogNormal(loc, scale), prior, reduced)
        apart = torch.stack([delta_f(TruncatedLogNormal(row, scale), prior, reduced) for row in loc])
        torch.testing.assert_close(together, apart, rtol=1e-13, atol=1e-12)


def test_arguments_in_another_order_are_told_of() -> None:
    prior = LogUniform(math.exp(-20), 1.0)
    q = TruncatedLogNormal(torch.zeros(5), torch.ones(5), prior.low, prior.high)
    with pytest.raises(ValueError, match=r"the order is delta_f\(posterior, prior, reduced\)"):
        delta_f(prior, q, spike(prior))


def test_a_point_mass_gives_the_savage_dickey_ratio() -> None:
    """It is the limit of a narrow reduced prior, and the exact evidence of a normal mean with known noise."""
    q = dist.Normal(torch.tensor([0.3, -2.0, 0.0]).double(), torch.tensor([0.1, 0.4, 0.01]).double())
    p = dist.Normal(torch.zeros(3).double(), torch.ones(3).double())
    point, narrow = dist.Delta(torch.zeros(3).double()), dist.Normal(torch.zeros(3).double(), 1e-7)
    torch.testing.assert_close(delta_f(q, p, point), delta_f(q, p, narrow), rtol=1e-6, atol=1e-6)
    events = (one.to_event(1) for one in (q, p, point))
    torch.testing.assert_close(delta_f(*events), delta_f(q, p, point).sum())
    # one observation y = 1.5 with noise 0.5, and θ ~ N(0, 1) or θ = 0
    variance = 1 / (1 + 1 / 0.25)
    posterior = dist.Normal(torch.tensor(variance * 1.5 / 0.25).double(), variance**0.5)
    exact = dist.Normal(0.0, 0.5).log_prob(torch.tensor(1.5)) - dist.Normal(0.0, 1.25**0.5).log_prob(
        torch.tensor(1.5)
    )
    found = delta_f(
        posterior, dist.Normal(torch.tensor(0.0).double(), 1.0), dist.Delta(torch.tensor(0.0).double())
    )
    assert found.item() == pytest.approx(exact.item(), abs=1e-6)


def test_a_point_mass_at_a_gain_is_a_narrow_log_normal_there() -> None:
    prior = LogUniform()
    q = TruncatedLogNormal(
        torch.tensor([0.0, -8.0, -19.0]), torch.tensor([0.5, 3.0, 2.0]), prior.low, prior.high
    )
    theta = torch.tensor([0.5, 1e-3, 1e-8], dtype=torch.float64)
    narrow = TruncatedLogNormal(theta.log(), 1e-6, prior.low, prior.high)
    torch.testing.assert_close(
        delta_f(q, prior, dist.Delta(theta)), delta_f(q, prior, narrow), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(
        ValueError, match=r"point mass where the prior has no density, such as 0; spike\(prior\)"
    ):
        delta_f(q, prior, dist.Delta(torch.zeros(3)))
    part = TruncatedLogNormal(torch.zeros(3), torch.ones(3), 0.1, 1.0)
    assert delta_f(part, prior, dist.Delta(torch.full((3,), 0.01))).tolist() == [-math.inf] * 3
