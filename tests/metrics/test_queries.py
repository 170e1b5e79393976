"""Queries against quadrature of the density and against a search over all intervals."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.metrics import hdi, probability_below, quantile

# kept and narrow; undecided; cut at 1; near the prior; removed
LOC = torch.tensor([-0.5, -4.0, 0.3, -10.0, -25.0], dtype=torch.float64)
SCALE = torch.tensor([0.05, 1.0, 0.4, 100.0, 2.0], dtype=torch.float64)
GAINS = {"theta.a": TruncatedLogNormal(LOC, SCALE)}


def mass(number: int, start: float, end: float) -> float:
    """Integrate the density of log θ."""
    q = TruncatedLogNormal(LOC[number], SCALE[number])

    def density(u: float) -> float:
        theta = torch.tensor(u, dtype=torch.float64).exp()
        return float(q.log_prob(theta.clamp(q.low, q.high)).exp() * theta)

    log_start, log_end = (float(torch.tensor(v, dtype=torch.float64).log()) for v in (start, end))
    peak = min(max(float(LOC[number]), log_start), log_end)
    return quad(density, log_start, log_end, points=[peak], limit=200)[0]


@pytest.mark.parametrize("level", [0.01, 0.5, 0.99])
def test_quantiles_have_the_mass_below_them(level: float) -> None:
    (values,) = quantile(GAINS, level).values()
    for number, value in enumerate(values.tolist()):
        assert mass(number, float(GAINS["theta.a"].low), value) == pytest.approx(level, abs=1e-7)


def test_probability_below_is_the_mass() -> None:
    (values,) = probability_below(GAINS, 0.1).values()
    for number, value in enumerate(values.tolist()):
        assert mass(number, float(GAINS["theta.a"].low), 0.1) == pytest.approx(value, abs=1e-7)
    assert probability_below(GAINS, 1.0)["theta.a"].tolist() == pytest.approx([1.0] * 5, abs=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_no_interval_of_that_mass_is_shorter(share: float) -> None:
    q = GAINS["theta.a"]
    ends = hdi(GAINS, share)["theta.a"]
    assert ends.shape == (5, 2)
    for number, (start, end) in enumerate(ends.tolist()):
        assert mass(number, start, end) == pytest.approx(share, abs=1e-7)
    p = torch.linspace(0, 1 - share, 20_001, dtype=torch.float64)[:, None]
    shortest = (q.icdf(p + share) - q.icdf(p)).min(0).values
    # the grid may miss the best by a little, the answer may not be longer than the grid's best
    assert (ends.diff(dim=1).squeeze(1) <= shortest * (1 + 1e-9)).all()
    torch.testing.assert_close(ends.diff(dim=1).squeeze(1), shortest, rtol=1e-4, atol=0)


def test_float32_posteriors_answer_too() -> None:
    gains = {"theta.a": TruncatedLogNormal(LOC.float(), SCALE.float())}
    torch.testing.assert_close(hdi(gains)["theta.a"], hdi(GAINS)["theta.a"], rtol=1e-5, atol=0)


def test_posteriors_of_hand_written_guides_answer_too() -> None:
    wrapped = {"theta.a": dist.MaskedDistribution(GAINS["theta.a"], True).to_event(1)}
    for ask in (lambda gains: quantile(gains, 0.3), lambda gains: probability_below(gains, 0.1), hdi):
        torch.testing.assert_close(ask(wrapped)["theta.a"], ask(GAINS)["theta.a"])


def test_wrong_levels_are_named() -> None:
    with pytest.raises(ValueError, match=r"level is 1.5; it must be in \[0, 1\]"):
        quantile(GAINS, 1.5)
    with pytest.raises(ValueError, match="level is 0; it must be positive"):
        probability_below(GAINS, 0)
    with pytest.raises(ValueError, match=r"mass is 1; it must be in \(0, 1\)"):
        hdi(GAINS, 1)
    with pytest.raises(TypeError, match=r"^level is a list; give one number, in \[0, 1\]$"):
        quantile(GAINS, [0.05, 0.95])  # type: ignore[arg-type]
    assert quantile(GAINS, torch.tensor(0.5)).keys() == GAINS.keys()  # type: ignore[arg-type]


def test_posteriors_of_other_variables_are_named() -> None:
    with pytest.raises(
        TypeError, match=r"^the posterior of 'rate' is a Beta; give TruncatedLogNormal posteriors$"
    ):
        hdi({**GAINS, "rate": dist.Beta(2.0, 3.0)})
