"""Sparse linear regression with a known truth: the simulation, the package's answer and two others' to compare with.

``python -m tests.weights.regression`` makes the hundred data sets of docs/results/bmr.md and prints the record.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LassoCV
from torch import nn

from bmrs_pyro.training import JointOptim
from bmrs_pyro.weights import LocalReparameterization, MeanField, SpikeAndSlab, WeightModel, fit_weights

N, P, NONZERO, NOISE, SLAB = 200, 50, 10, 1.0, 1.0
Array = NDArray[np.float64]
Support = NDArray[np.bool_]


class Simulation(NamedTuple):
    """y = Xβ + ε, ε ~ N(0, 1)."""

    x: Array
    y: Array
    support: Support


def simulate(seed: int) -> Simulation:
    """Draw a data set: correlated columns (ρ = 0.3 between neighbours), coefficients of 5 to 15 standard errors."""
    rng = np.random.default_rng(seed)
    distance = np.abs(np.subtract.outer(np.arange(P), np.arange(P)))
    x = rng.normal(size=(N, P)) @ np.linalg.cholesky(0.3**distance).T
    errors = NOISE * np.sqrt(np.diag(np.linalg.inv(x.T @ x)))
    beta = np.zeros(P)
    chosen = rng.choice(P, NONZERO, replace=False)
    beta[chosen] = rng.choice([-1, 1], NONZERO) * rng.uniform(5, 15, NONZERO) * errors[chosen]
    return Simulation(x, x @ beta + NOISE * rng.normal(size=N), beta != 0)


def by_reduction(data: Simulation, *, epochs: int = 12, steps: int = 60) -> Support:
    """The package's answer: SVI and spike-and-slab reduction in turns, on all 200 examples at a time."""
    x, y = torch.tensor(data.x, dtype=torch.float32), torch.tensor(data.y, dtype=torch.float32)
    model = WeightModel(
        nn.Linear(P, 1, bias=False),
        lambda output: dist.Normal(output.squeeze(-1), NOISE),
        N,
        scales=lambda layer: torch.tensor(SLAB),
    )
    guide = MeanField(model.draw, init_radius=0.1)
    optim = JointOptim(torch.optim.Adam, {"lr": 0.03})
    with pyro.validation_enabled(False):
        fit_weights(
            model,
            guide,
            [(x, y)] * steps,
            epochs=epochs,
            rule=SpikeAndSlab(),
            prune_last=True,
            optim=optim,
            estimator=LocalReparameterization(),
        )
    return model.active["weights"][0].numpy()


def by_gibbs(data: Simulation, *, sweeps: int = 600, burn_in: int = 100) -> Support:
    """Exact Bayesian spike and slab by Gibbs sampling: β_j ~ ρ N(0, 1) + (1 − ρ) δ₀, ρ ~ Beta(1, 1), known noise.

    Each indicator is drawn with its own coefficient integrated out, given the other coefficients; what is included in
    more than half of the draws is the median probability model.
    """
    rng = np.random.default_rng(0)
    gram, moment = data.x.T @ data.x / NOISE**2, data.x.T @ data.y / NOISE**2
    beta, rate, counts = np.zeros(P), 0.5, np.zeros(P)
    precision = np.diag(gram) + 1 / SLAB**2
    for sweep in range(sweeps):
        for j in range(P):
            shift = moment[j] - gram[j] @ beta + gram[j, j] * beta[j]
            log_odds = (
                np.log(rate / (1 - rate)) - np.log(SLAB**2 * precision[j]) / 2 + shift**2 / precision[j] / 2
            )
            included = np.log(1 / rng.uniform() - 1) < log_odds
            beta[j] = included * (shift / precision[j] + rng.normal() / np.sqrt(precision[j]))
        active = beta != 0
        rate = rng.beta(1 + active.sum(), 1 + P - active.sum())
        counts += active * (sweep >= burn_in)
    return counts > (sweeps - burn_in) / 2


def by_lasso(data: Simulation) -> Support:
    """scikit-learn's lasso with its penalty chosen by five-fold cross-validation."""
    return LassoCV(cv=5).fit(data.x, data.y).coef_ != 0


def f1(found: Support, truth: Support) -> float:
    """2 TP / (2 TP + FP + FN)."""
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def record(seeds: range) -> dict[str, dict[str, float]]:
    """Mean F1 and the number of data sets without a lost coefficient, by method."""
    methods = {"reduction": by_reduction, "gibbs": by_gibbs, "lasso": by_lasso}
    found: dict[str, list[tuple[float, bool]]] = {name: [] for name in methods}
    for seed in seeds:
        data = simulate(seed)
        for name, method in methods.items():
            support = method(data)
            found[name].append((f1(support, data.support), bool((support | ~data.support).all())))
    return {
        name: {"f1": float(np.mean([f for f, _ in pairs])), "none lost": sum(kept for _, kept in pairs)}
        for name, pairs in found.items()
    }


if __name__ == "__main__":
    print(json.dumps(record(range(100)), indent=1))
