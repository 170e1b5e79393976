"""The distribution of log θ: the error bounds that the rule states, against 50 digits."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from torch import Tensor

from bmrs_pyro.distributions import TruncatedNormal
from tests.distributions import reference

LOCS = (-60.0, -35.0, -20.3, -19.9, -11.0, -4.0, -0.1, 0.0, 0.7, 12.0, 40.0)
LOG_SCALES = (-7.0, -5.0, -3.0, -1.5, 0.0, 0.8, 1.5, 2.5, 5.0)
GRID = [(loc, math.exp(log_scale)) for loc in LOCS for log_scale in LOG_SCALES]


def distribution(low: float = -20.0, high: float = 0.0) -> TruncatedNormal:
    columns = torch.tensor(GRID, dtype=torch.float64).T
    return TruncatedNormal(*columns, *torch.tensor([low, high], dtype=torch.float64))


def test_integral_to_1e_12() -> None:
    exact = [reference.log_z(*case, mp.exp(-20), 1) for case in GRID]
    # log Z itself is large where loc is far out: compare what is left after the part that is exact
    for ours, slope, (_, scale), truth in zip(
        distribution().integral, distribution().slope, GRID, exact, strict=True
    ):
        norm = mp.exp(truth + mp.mpf(slope.item()) ** 2 / 2) * mp.mpf(scale) * mp.sqrt(2 * mp.pi)
        # slope carries one rounding, which its square magnifies
        bound = 1e-12 + 4e-16 * slope.item() ** 2
        assert float(mp.log(mp.mpf(ours.item()) / norm)) == pytest.approx(0, abs=bound)


@pytest.mark.parametrize("width", [0.01, 20.0, 50.0])
def test_tilted_rule_to_1e_10(width: float) -> None:
    cut = distribution(low=-width)
    offset, mass = cut.grid(count=48, tilt=2.0)
    for power in (1, 2):
        ours = power * cut.mode + ((mass * (power * cut.scale * offset).exp()).sum(0) / mass.sum(0)).log()
        for value, case in zip(ours, GRID, strict=True):
            truth = mp.log(reference.moment(power, *case, mp.exp(-width), 1))
            assert value.item() == pytest.approx(float(truth), abs=1e-10)


def log_mass(low: float, high: float) -> Tensor:
    part = distribution().cut(*torch.tensor([low, high], dtype=torch.float64))
    return distribution().log_density(part.mode) + part.integral.log()


def test_mass_of_a_part() -> None:
    for value, case in zip(log_mass(-7.5, -3.25), GRID, strict=True):
        part = reference.log_z(*case, mp.exp(-7.5), mp.exp(-3.25))
        truth = float(part - reference.log_z(*case, mp.exp(-20), 1))
        assert value.item() == pytest.approx(truth, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(
        log_mass(-30.0, 5.0), torch.zeros(len(GRID), dtype=torch.float64), rtol=0, atol=1e-12
    )
    for empty in [(-3.0, -7.0), (1.0, 2.0), (-40.0, -25.0)]:
        assert (log_mass(*empty) == -math.inf).all()
