"""Budgets of a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bmrs_pyro.data import Batches, DataSource
from bmrs_pyro.metrics import ValueEvaluation, evaluate
from bmrs_pyro.path import MuchWorse, Target
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.reporting import compare_run, html_report, to_inference_data
from bmrs_pyro.runs import RunDirectory, begin_run, prune_run, run_data, train_run
from bmrs_pyro.training import Cycle, Limits, Recipe

VALUES = """
from torch import nn

def network(input_shape, num_outputs):
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, num_outputs))
"""


@pytest.mark.filterwarnings("ignore:nothing was removed")
@pytest.mark.parametrize("criterion", ["bmrs-n", "snr"])
def test_a_budget_compares_evidence_in_nats_of_the_likelihood(
    criterion: str, finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run.path, tmp_path / "run")
    given: dict[str, Any] = {}
    applied = Limits.applied

    def noted(self: Limits, *args: Any, **options: Any) -> KeepMask:
        given.update(options)
        return applied(self, *args, **options)

    monkeypatch.setattr(Limits, "applied", noted)
    prune_run(RunDirectory(tmp_path / "run"), criterion, limits=Limits(max_parameters=900))
    if criterion == "snr":  # no evidence
        assert given["units"] is None
    else:  # mean:0.3 divides by the 12 and 8 structures that the families had before training
        first, second = given["units"].values()
        assert first / second == pytest.approx(8 / 12)


def test_structures_that_left_in_training_keep_their_scores(
    finished_run: RunDirectory, tmp_path: Path
) -> None:
    shutil.copytree(finished_run.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    before, kept = run.decision(), run.network()[2]
    assert kept.removed
    for criterion in ("snr", "bmrs-n"):
        prune_run(run, criterion, limits=Limits(max_parameters=120))
        now = run.decision()
        assert now.keep.removed > kept.removed
        for name, mask in kept.items():
            if criterion == "snr":  # the run has asked another question
                assert now.scores[name][~mask].isnan().all()
                assert now.scores[name][mask].isfinite().all()
            else:
                assert torch.equal(now.scores[name], before.scores[name])
    assert "not asked" not in html_report(run)


def test_fine_tuning_keeps_the_scale_that_the_run_has_learned(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(VALUES)
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    y = (np.maximum(x[:, :1], 0) - x[:, 1:2] + 3).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    source = DataSource(str(tmp_path / "data.npz"))
    recipe = Recipe(epochs=5, fine_tune_epochs=2, batch_size=20, likelihood="normal:learned", lr=1e-2)
    run = begin_run(tmp_path / "run", str(tmp_path / "net.py"), source, recipe)
    train_run(run, progress=False)
    scale = {name: value.clone() for name, value in scale_of(run).items()}
    assert scale
    batch = next(iter(Batches(run_data(run).train, 50, shuffle=False)))
    found = to_inference_data(run, 3, data=batch)
    values, of_y = (
        torch.from_numpy(found[name]["y"].values) for name in ("posterior_predictive", "log_likelihood")
    )
    noise = run.trained_likelihood()(torch.zeros(1, 1)).scale
    assert values.unique().numel() > 100  # no classes
    assert of_y.max() <= torch.distributions.Normal(0, noise).log_prob(torch.zeros(())) + 1e-4

    def error() -> float:
        held_out = Batches(run_data(run).train, 200, shuffle=False)
        found = evaluate(run.small(), held_out, likelihood=run.likelihood())
        assert isinstance(found, ValueEvaluation)
        assert found.rmse is not None
        return found.rmse

    prune_run(run, "bmrs-n", limits=Limits(max_parameters=30))
    before = error()
    prune_run(run, "bmrs-n", limits=Limits(max_parameters=30), epochs=5, cycle=Cycle(lr=0.02))
    assert error() < before
    assert all(torch.equal(value, scale[name]) for name, value in scale_of(run).items())
    with pytest.warns(MuchWorse, match="a lower learning rate or a larger budget"):
        prune_run(run, "bmrs-n", limits=Limits(max_parameters=30), epochs=5, cycle=Cycle("adamw", 5))


def test_each_network_is_scored_with_the_scale_of_its_own_errors(tmp_path: Path) -> None:
    """The scale of largest likelihood is the root mean square error on the training data."""
    (tmp_path / "net.py").write_text(VALUES)
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    y = (np.maximum(x, 0) @ [[9], [-8], [7], [6]] + 3).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x[:250], y_train=y[:250], x_test=x[250:], y_test=y[250:])
    source = DataSource(str(tmp_path / "data.npz"))
    recipe = Recipe(
        epochs=60, fine_tune_epochs=0, batch_size=25, likelihood="normal", criterion="none", lr=0.02
    )
    first = begin_run(tmp_path / "first", str(tmp_path / "net.py"), source, recipe)
    train_run(first, progress=False)
    run = begin_run(
        tmp_path / "run",
        str(tmp_path / "net.py"),
        source,
        Recipe(epochs=0, batch_size=25, likelihood="normal"),
        target=Target(max_macs="20%"),
        weights=first.path / "compact.safetensors",
        cycle=Cycle(),
    )
    train_run(run, progress=False)

    def check() -> float:
        splits, figures = run_data(run), compare_run(run, repeats=1)
        scales = []
        for name, net in (("dense", run.dense()), ("small", run.small())):
            trained, tested = (
                errors(run, net, Batches(part, 300, shuffle=False)) for part in (splits.train, splits.test)
            )
            scales.append(trained.square().mean().sqrt().item())
            found = figures[name].evaluation
            assert isinstance(found, ValueEvaluation)
            nll = -torch.distributions.Normal(0, scales[-1]).log_prob(tested).mean().item()
            assert found.nll == pytest.approx(nll, abs=2e-3)
        return scales[1] / scales[0]

    assert check() > 1.5
    page = html_report(run)
    for words in ("validation RMSE", "validation log-likelihood", "lose at most 0.1 nats per example:"):
        assert words in page
    for epochs, ratio in ((0, 1.5), (5, 1.2)):
        with pytest.warns(MuchWorse, match=r"RMSE \d.* before"):
            prune_run(run, "bmrs-n", target=Target(max_macs="10%"), epochs=epochs)
        assert check() > ratio


def errors(run: RunDirectory, net: nn.Module, batches: Batches) -> torch.Tensor:
    """Return prediction minus value, in the values' units."""
    (mean,), (std,) = run.config.target_mean, run.config.target_std
    with torch.no_grad():
        return torch.cat([net(x)[:, 0] * std + mean - y.reshape(-1) for x, y in batches])


def scale_of(run: RunDirectory) -> dict[str, torch.Tensor]:
    likelihood = run.trained_likelihood()
    assert isinstance(likelihood, nn.Module)
    return likelihood.state_dict()
