"""What ArviZ gets and makes of it; runs with ArviZ 0.x and 1.x, whichever is installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.inference import AutoTruncatedLogNormal, SupervisedModel
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.reporting import to_inference_data
from bmrs_pyro.runs import RunDirectory
from tests.metrics.programs import N, program

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # 0.23 announces 1.0
    az = pytest.importorskip("arviz")

FIRST_LINE = az.__version__.startswith("0.")
mpl.use("Agg")


def dataset(tree: Any, group: str) -> Any:
    return tree[group] if FIRST_LINE else tree[group].to_dataset()


def test_groups_dimensions_and_coordinates() -> None:
    guide, x, y = program()
    keep = KeepMask(
        {"theta.0": torch.tensor([1, 0, 1, 1, 1, 0, 1, 1]).bool(), "theta.2": torch.ones(4).bool()}
    )
    tree = to_inference_data(guide, draws=7, data=(x, y), keep=keep)
    assert isinstance(tree, az.InferenceData if FIRST_LINE else az.from_dict({}).__class__)
    posterior = dataset(tree, "posterior")
    assert posterior["theta.0"].dims == ("chain", "draw", "0")
    assert posterior["theta.0"].shape == (1, 7, 6)
    assert posterior["0"].values.tolist() == [0, 2, 3, 4, 6, 7]
    assert dataset(tree, "prior")["theta.2"].shape == (1, 7, 4)
    for group in ("posterior_predictive", "log_likelihood"):
        assert dataset(tree, group)["y"].dims == ("chain", "draw", "example")
        assert dataset(tree, group)["y"].shape == (1, 7, N)
    assert dataset(tree, "observed_data")["y"].values.tolist() == y.tolist()


def test_draws_follow_posterior_and_prior() -> None:
    guide, _, _ = program()
    tree = to_inference_data(guide, draws=20_000)
    for name, q in guide.posteriors().items():
        draws = dataset(tree, "posterior")[name].values[0]
        # four standard errors
        np.testing.assert_array_less(
            np.abs(draws.mean(0) - q.mean.numpy()), 4 * q.stddev.numpy() / np.sqrt(20_000)
        )
        logs = np.log(dataset(tree, "prior")[name].values)
        assert abs(logs.mean() + 10) < 4 * 20 / np.sqrt(12 * logs.size)


def test_every_variable_has_its_own_prior() -> None:
    several = {
        "theta.0.scale": TruncatedLogNormal(0.0, 0.1, 0.1, 10.0),
        "theta.0.rate": dist.Beta(2.0, 3.0),
        "theta.0": TruncatedLogNormal(torch.zeros(4), 0.3).to_event(1),
    }
    tree = to_inference_data(several, draws=20_000)
    prior = dataset(tree, "prior")
    assert set(prior.data_vars) == {"theta.0.scale", "theta.0"}
    for name, mean, width in (("theta.0.scale", 0.0, 2 * np.log(10)), ("theta.0", -10.0, 20.0)):
        logs = np.log(prior[name].values)
        assert logs.max() - logs.min() == pytest.approx(width, rel=1e-3)
        assert abs(logs.mean() - mean) < 4 * width / np.sqrt(12 * logs.size)  # four standard errors
    assert dataset(tree, "posterior")["theta.0.rate"].values.mean() == pytest.approx(0.4, abs=0.01)
    rate = to_inference_data({"rate": several["theta.0.rate"]}, draws=3)
    assert dataset(rate, "posterior")["rate"].shape == (1, 3)


def test_log_likelihood_is_that_of_the_draws() -> None:
    guide, x, y = program()
    tree = to_inference_data(guide, draws=5, data=(x, y))
    for draw in range(5):
        theta = {
            name: torch.from_numpy(dataset(tree, "posterior")[name].values[0, draw])
            for name in ("theta.0", "theta.2")
        }
        expected = guide.model.network(x, theta).log_softmax(1)[torch.arange(N), y]
        np.testing.assert_allclose(
            dataset(tree, "log_likelihood")["y"].values[0, draw], expected.detach(), rtol=1e-5
        )


@pytest.mark.parametrize("name", ["categorical", "normal:0.5"])
def test_examples_may_have_several_labels_or_values(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    model = SupervisedModel(NoisyNetwork(net, torch.zeros(1, 4, 5)), name, N)
    x = torch.randn(N, 4, 5)
    y = torch.randint(0, 3, (N, 4)) if name == "categorical" else torch.randn(N, 4, 3)
    tree = to_inference_data(AutoTruncatedLogNormal(model, init_loc=-1.0), draws=6, data=(x, y))
    theta = {
        family.name: torch.from_numpy(dataset(tree, "posterior")[family.name].values[0, 2])
        for family in model.structures
    }
    outputs = model.network(x, theta)
    outcomes = dist.Normal(outputs, 0.5) if name != "categorical" else dist.Categorical(logits=outputs)
    expected = outcomes.log_prob(y).flatten(1).sum(1).detach()
    found = dataset(tree, "log_likelihood")["y"]
    assert found.dims == ("chain", "draw", "example")
    np.testing.assert_allclose(found.values[0, 2], expected, rtol=1e-4)
    drawn = dataset(tree, "posterior_predictive")["y"]
    assert drawn.dims == ("chain", "draw", "example", *(f"y_dim_{n}" for n in range(y.dim() - 1)))
    assert drawn.shape == (1, 6, *y.shape)
    assert dataset(tree, "observed_data")["y"].shape == y.shape


def test_loo_agrees_with_plain_importance_sampling() -> None:
    guide, x, y = program()
    tree = to_inference_data(guide, draws=2000, data=(x, y))
    result = az.loo(tree, reff=1.0)
    elpd = result["elpd_loo"] if FIRST_LINE else result.elpd
    log_likelihood = dataset(tree, "log_likelihood")["y"].values[0]
    plain = (np.log(2000) - logsumexp(-log_likelihood, axis=0)).sum()
    assert elpd == pytest.approx(plain, abs=0.05)


@pytest.mark.filterwarnings("ignore")  # ArviZ against the newest matplotlib is not ours to mend
def test_plots_are_drawn() -> None:
    guide, x, y = program()
    tree = to_inference_data(guide, draws=200, data=(x, y))
    az.plot_forest(tree, var_names=["theta.2"])
    (az.plot_posterior if FIRST_LINE else az.plot_dist)(tree, var_names=["theta.2"])


def test_a_run_numbers_channels_as_the_dense_network(finished_run: RunDirectory) -> None:
    keep = finished_run.network()[2]
    assert keep.removed
    for source in (finished_run, str(finished_run.path), Path(finished_run.path)):
        posterior = dataset(to_inference_data(source, draws=3), "posterior")
        for name in keep:
            family = name.removeprefix("theta.")
            assert posterior[family].values.tolist() == keep.indices(name).tolist()


def test_hand_written_guides_are_served_by_their_posteriors() -> None:
    guide, x, y = program()
    gains = {"gain": guide.posteriors()["theta.0"]}
    assert dataset(to_inference_data(gains, draws=3), "posterior")["gain"].dims[2] == "gain.structure"
    with pytest.raises(ValueError, match="posteriors alone predict nothing"):
        to_inference_data(gains, draws=3, data=(x, y))


def test_wrong_use_is_refused() -> None:
    guide, _, _ = program()
    with pytest.raises(ValueError, match="draws is 0"):
        to_inference_data(guide, draws=0)
    with pytest.raises(TypeError, match=r"draws is 1\.5; give a whole number"):
        to_inference_data(guide, draws=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="source is a int"):
        to_inference_data(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"theta\.0: keep leaves 2 structures, the posterior has 6"):
        to_inference_data(guide, draws=3, keep=KeepMask({"theta.0": torch.ones(2).bool()}))
    with pytest.raises(ValueError, match=r"theta\.0: keep leaves 2 structures, the posterior has 6"):
        to_inference_data(guide, draws=3, keep={"theta.0": torch.ones(2).bool()})
    with pytest.raises(ValueError, match=r"keep has a mask for 'foo'; the posteriors are theta\.0"):
        to_inference_data(guide, draws=3, keep={"foo": torch.ones(6).bool()})


def test_the_callers_random_state_stays() -> None:
    guide, _, _ = program()
    state = torch.get_rng_state()
    to_inference_data(guide, draws=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_of_named_inputs() -> None:
    guide, x, y = program()
    trees = [
        to_inference_data(guide, draws=3, data=data)
        for data in ((x, y), ({"input": x}, y), {"input": x, "labels": y})
    ]
    first, *others = (dataset(tree, "log_likelihood")["y"].values for tree in trees)
    assert all(np.array_equal(first, other) for other in others)
