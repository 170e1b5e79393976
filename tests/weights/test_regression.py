"""Support recovery in sparse regression, against exact spike and slab and the cross-validated lasso."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import betaln, logsumexp
from scipy.stats import multivariate_normal

from tests.weights.regression import (
    NOISE,
    SLAB,
    Simulation,
    by_gibbs,
    by_lasso,
    by_reduction,
    record,
    simulate,
)


def test_the_oracle_by_enumeration() -> None:
    """Gibbs sampling of 7 coefficients against the exact sum over all 128 models."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 50))
    x[:, 7:] = 0.0  # no data on the others: their indicators follow the rate
    beta = np.array([0.0, 0.9, 0.35, 0.0, -0.3, 0.2, 0.0])
    y = x[:, :7] @ beta + NOISE * rng.normal(size=30)
    models = list(itertools.product([False, True], repeat=7))
    log_joint = []
    for model in models:
        part = x[:, :7][:, list(model)]
        evidence = multivariate_normal.logpdf(
            y, np.zeros(30), SLAB**2 * part @ part.T + NOISE**2 * np.eye(30)
        )
        others = [  # the 43 without data: summed over how many of them are in
            logbinomial(43, k) + betaln(1 + sum(model) + k, 1 + 50 - sum(model) - k) for k in range(44)
        ]
        log_joint.append(evidence + logsumexp(others))
    weight = np.exp(np.array(log_joint) - logsumexp(log_joint))
    inclusion = weight @ np.array(models)
    decided = np.abs(inclusion - 0.5) > 0.1
    found = by_gibbs(Simulation(x, y, np.zeros(50, bool)), sweeps=3000, burn_in=200)[:7]
    assert decided.sum() >= 5
    assert np.array_equal(found[decided], inclusion[decided] > 0.5)


def logbinomial(n: int, k: int) -> float:
    return -float(betaln(1 + n - k, 1 + k)) - float(np.log(n + 1))


def check(found: dict[str, dict[str, float]], count: int) -> None:
    assert found["reduction"]["none lost"] >= 0.98 * count
    assert found["reduction"]["f1"] >= found["lasso"]["f1"]
    assert found["reduction"]["f1"] >= found["gibbs"]["f1"] - 0.02


def test_five_data_sets() -> None:
    check(record(range(5)), 5)


@pytest.mark.slow
def test_a_hundred_data_sets() -> None:
    check(record(range(100)), 100)


def test_all_find_a_clear_signal() -> None:
    data = simulate(3)
    clear = Simulation(data.x, 10 * data.x[:, 4] + 0.1 * data.y, np.arange(50) == 4)
    for method in (by_reduction, by_gibbs, by_lasso):
        assert method(clear)[4]
