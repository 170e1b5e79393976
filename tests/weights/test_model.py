"""The model of Gaussian weights: what it computes, what it counts, and where SVI takes it."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoGuide, AutoNormal
from pyro.optim import Adam
from torch import Tensor, nn
from torch.func import functional_call

from bmrs_pyro.inference import MeanFieldELBO
from bmrs_pyro.training import JointOptim
from bmrs_pyro.weights import (
    Flipout,
    LocalReparameterization,
    MeanField,
    PointEstimate,
    WeightModel,
    fit_weights,
    mean_network,
    regularised_horseshoe,
    weight_posteriors,
)
from bmrs_pyro.weights.model import run_network
from tests.weights.programs import NUM_DATA, batches, blobs, categorical, mlp, program


def test_output_is_the_networks_with_scale_times_z() -> None:
    model, _ = program()
    model.gains["weights.2"][3] = 0.0
    x, _ = blobs()
    trace = poutine.trace(model.output).get_trace(x)
    parameters: dict[str, Tensor] = {}
    drawn: dict[str, Any] = {name: site["value"] for name, site in trace.iter_stochastic_nodes()}
    for layer in model.layers:
        scale = (1.0 if layer.last else 0.1) / drawn[f"{layer.name}_precision"].sqrt()
        parameters |= layer.parameters(scale * model.gains[layer.name] * drawn[layer.name])
    assert (parameters["2.weight"][3] == 0).all()
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], functional_call(model.net, parameters, (x,)))


def test_a_batch_counts_for_all_data() -> None:
    model, guide = program()
    x, y = blobs()
    trace = poutine.trace(guide).get_trace()

    def log_likelihood(size: int) -> Tensor:
        found = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x[:size], y[:size])
        found.compute_log_prob()
        return found.nodes["y"]["log_prob_sum"]

    output = poutine.replay(model.output, trace=trace)(x[:24])
    expected = NUM_DATA / 24 * categorical(output).log_prob(y[:24]).sum()
    torch.testing.assert_close(log_likelihood(24), expected)


@pytest.mark.parametrize("elbo", [MeanFieldELBO, TraceMeanField_ELBO])
def test_kl_is_closed_and_right(elbo: type[Trace_ELBO]) -> None:
    model, guide = program()
    blind = poutine.block(model, hide=["y"])
    x, y = blobs()
    losses = {elbo().loss(blind, guide, x, y) for _ in range(3)}
    assert max(losses) - min(losses) < 1e-3 * abs(min(losses))
    loc, scale = guide.loc.double(), guide.scale.double()
    total = 0.0
    for name, m, s in ((n, guide.split(loc)[n], guide.split(scale)[n]) for n in guide.shapes):
        if name in guide.positive:  # Gamma(2, 2), whose normaliser is log 4
            kl = (
                -0.5 * math.log(2 * math.pi * math.e)
                - s.log()
                - 2 * m
                + 2 * (m + s**2 / 2).exp()
                - math.log(4)
            )
        else:
            kl = -s.log() + (s**2 + m**2 - 1) / 2
        total += kl.sum().item()
    assert losses.pop() == pytest.approx(total, rel=1e-5)


def test_conjugate_regression_is_fitted_exactly() -> None:
    """Linear regression: the mean-field optimum has the exact mean, and the diagonal of the exact precision."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(100, 3, generator=generator)
    x[:, 1] += 0.5 * x[:, 0]
    y = x @ torch.tensor([1.0, -0.5, 0.0]) + 0.5 * torch.randn(100, generator=generator)
    model = WeightModel(
        nn.Linear(3, 1),
        lambda out: dist.Normal(out.squeeze(-1), 0.5),
        100,
        scales=lambda layer: torch.tensor(2.0),
    )
    guide = MeanField(model.draw)
    optim = JointOptim(torch.optim.Adam, {"lr": 3e-2})
    fit_weights(model, guide, [(x, y)] * 3, epochs=500, optim=optim, estimator=LocalReparameterization())
    design = torch.cat([x, torch.ones(100, 1)], 1)  # the bias is the last column
    precision = design.T @ design / 0.25 + torch.eye(4) / 4
    mean = torch.linalg.solve(precision, design.T @ y / 0.25)
    (posterior,) = weight_posteriors(model, guide).values()
    torch.testing.assert_close(2 * posterior.loc[0], mean, rtol=0, atol=0.02)
    torch.testing.assert_close(2 * posterior.scale[0], precision.diag() ** -0.5, rtol=0.05, atol=0)


def test_map_agrees_with_penalised_least_squares() -> None:
    x = torch.randn(60, 2)
    y = x @ torch.tensor([1.0, 0.2])
    model = WeightModel(
        nn.Linear(2, 1, bias=False),
        lambda out: dist.Normal(out.squeeze(-1), 1.0),
        60,
        scales=lambda layer: torch.tensor(0.3),
    )
    guide = PointEstimate(model.draw)
    optim = JointOptim(torch.optim.Adam, {"lr": 0.05})
    fit_weights(model, guide, [(x, y)], epochs=300, optim=optim, elbo=Trace_ELBO())
    expected = torch.linalg.solve(x.T @ x + torch.eye(2) / 0.09, x.T @ y)
    torch.testing.assert_close(0.3 * guide.medians()["weights"][0], expected, rtol=1e-3, atol=1e-3)


def test_parameters_not_selected_are_trained_along() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    model, guide = program(net, select=lambda name: not name.startswith("1."))
    assert [layer.name for layer in model.layers] == ["weights.0", "weights.3"]
    before = net.get_parameter("1.weight").detach().clone()
    dense = net.get_parameter("0.weight").detach().clone()
    fit_weights(model, guide, batches(), epochs=2)
    assert not torch.equal(net.get_parameter("1.weight"), before)
    assert torch.equal(net.get_parameter("0.weight"), dense)


def test_works_with_stock_pyro() -> None:
    model, guide = program()
    svi = SVI(model, guide, Adam({"lr": 0.02}), TraceMeanField_ELBO())
    x, y = blobs()
    losses = [svi.step(x, y) for _ in range(150)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_data is 0"):
        WeightModel(mlp(), categorical, 0)
    model = WeightModel(mlp(), lambda out: dist.Normal(out, 1.0), 10)
    with pytest.raises(ValueError, match=r"batch shape \(5, 3\), expected \(batch,\)"):
        model(torch.zeros(5, 4), torch.zeros(5, 3))


def test_a_frozen_layer_is_not_random_and_a_module_used_twice_keeps_its_parameters() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), shared, nn.Tanh(), shared, nn.Linear(8, 3))
    net[0].requires_grad_(False)
    frozen = net[0].weight.clone()
    model = WeightModel(net, lambda logits: dist.Categorical(logits=logits), 60)
    assert [layer.name for layer in model.layers] == ["weights.2", "weights.5"]
    guide = MeanField(model.draw)
    batches = [(torch.randn(20, 4), torch.randint(3, (20,))) for _ in range(3)]
    for _ in range(2):
        fit_weights(model, guide, batches, epochs=1, progress=False)
    assert all(isinstance(weight, nn.Parameter) for weight in shared._parameters.values())
    for estimator in (Flipout(), LocalReparameterization()):
        fit_weights(model, guide, batches, epochs=1, estimator=estimator, progress=False)
        assert all(isinstance(weight, nn.Parameter) for weight in shared._parameters.values())
    small = mean_network(model, guide)
    assert torch.equal(small[0].weight, frozen)
    assert small[2] is small[4]
    # both calls of the module have the drawn weights
    x, draws = batches[0][0], model.draw()
    hidden = net[0](x).tanh()
    (_, scale, z), (_, other_scale, other_z) = draws
    for number in range(2):
        matrix = (scale * z).split([8, 1], 1)
        hidden = nn.functional.linear(hidden if number == 0 else hidden.tanh(), matrix[0], matrix[1][:, 0])
    last = (other_scale * other_z).split([8, 1], 1)
    expected = nn.functional.linear(hidden, last[0], last[1][:, 0])
    assert torch.allclose(run_network(net, draws, x), expected, atol=1e-6)
    with pytest.raises(ValueError, match="what it has is frozen"):
        WeightModel(net.requires_grad_(False), lambda logits: dist.Categorical(logits=logits), 60)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta, AutoDiagonalNormal])
def test_pyros_guides_fit_the_weights(kind: type[AutoGuide]) -> None:
    torch.manual_seed(0)
    model, _ = program()
    guide = kind(model)
    svi = SVI(model, guide, Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(10) for x, y in batches()]
    assert sum(losses[-12:]) < 0.5 * sum(losses[:12])
    x, y = blobs(1)
    drawn = Predictive(model, guide=guide, num_samples=8, return_sites=["y"])(x)["y"]
    assert (drawn.mode(0).values == y).float().mean() > 0.8


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta])
def test_pyros_guides_know_every_site_of_the_horseshoe(kind: type[AutoGuide]) -> None:
    model, _ = program(scales=regularised_horseshoe)
    guide = kind(model)
    loss = SVI(model, guide, Adam({"lr": 0.02}), Trace_ELBO()).step(*batches()[0])
    assert math.isfinite(loss)
    sites = dict(poutine.trace(model.draw).get_trace().iter_stochastic_nodes())
    assert guide.median().keys() == sites.keys()
