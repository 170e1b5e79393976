"""Predictions: the average over draws, and the plain network at the mean."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from bmrs_pyro.metrics import evaluate
from bmrs_pyro.weights import MeanField, PointEstimate, WeightModel, mean_network, predictive
from tests.weights.programs import blobs, program


def test_predictive_is_the_mean_probability() -> None:
    model, guide = program()
    x, _ = blobs(count=9)
    pyro.set_rng_seed(3)
    found = predictive(model, guide, 7)(x)
    pyro.set_rng_seed(3)
    with torch.no_grad():
        traces = [poutine.trace(guide).get_trace() for _ in range(7)]
        expected = torch.stack(
            [poutine.replay(model.output, trace=trace)(x).softmax(-1) for trace in traces]
        ).mean(0)
    torch.testing.assert_close(found.exp(), expected)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(9))
    with pytest.raises(ValueError, match="draws is 0"):
        predictive(model, guide, 0)


def test_mean_network_is_what_a_point_estimate_predicts() -> None:
    model, _ = program()
    guide = PointEstimate(model.draw)
    x, _ = blobs(count=9)
    found = mean_network(model, guide)(x).log_softmax(-1)
    torch.testing.assert_close(found, predictive(model, guide, 1)(x))


def test_two_guides_in_one_process_do_not_meet_in_the_parameter_store() -> None:
    x, _ = blobs(count=5)
    (one, q), (two, p) = program(), program()
    first = predictive(one, q, 200)(x)
    predictive(two, p, 1)(x)
    torch.testing.assert_close(predictive(one, q, 200)(x), first, rtol=0, atol=0.4)
    assert len(list(pyro.get_param_store().keys())) == 0


def test_values_are_a_mixture_of_the_draws() -> None:
    model, guide = program()
    model.likelihood = lambda z: dist.Normal(z, 0.5).to_event(1)
    x, _ = blobs(count=9)
    y = torch.randn(9, model.output(x).shape[1])
    pyro.set_rng_seed(3)
    found = predictive(model, guide, 7)(x)
    pyro.set_rng_seed(3)
    with torch.no_grad():
        traces = [poutine.trace(guide).get_trace() for _ in range(7)]
        parts = [
            model.likelihood(poutine.replay(model.output, trace=trace)(x)).log_prob(y) for trace in traces
        ]
    torch.testing.assert_close(found.log_prob(y), torch.stack(parts).logsumexp(0) - math.log(7))


def test_predictions_run_in_evaluation_mode_and_change_nothing() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    model = WeightModel(net, "categorical", 50).train()
    guide = MeanField(model.draw, init_scale=1e-4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    predict, x = predictive(model, guide, 3), torch.randn(9, 2) + 5
    together = predict(x)
    alone = torch.cat(
        [predict(row) for row in x.split(1)]
    )  # in training mode batch norm refuses a single example
    torch.testing.assert_close(alone, together, rtol=0, atol=0.05)
    assert model.training
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_binary_labels_are_scored_as_the_likelihood_has_them() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 5)
    y = (x[:, :1] > 0).float()
    model = WeightModel(nn.Linear(5, 1), "bernoulli", 40)
    predict = predictive(model, MeanField(model.draw, init_scale=1e-6), 3)
    for labels in (y, y[:, 0], y[:, 0].long()):
        found = evaluate(predict, [(x, labels)], likelihood="bernoulli")
        expected = (predict(x).argmax(-1) == y[:, 0]).float().mean().item()
        assert found.accuracy == pytest.approx(expected)


def test_another_models_guide_is_refused() -> None:
    one, other = (WeightModel(nn.Linear(size, 3), "categorical", 9) for size in (6, 4))
    with pytest.raises(ValueError, match="the guide is another model's"):
        predictive(other, MeanField(one.draw))
