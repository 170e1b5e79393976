"""Gradient estimators: exact distributions of outputs, variance of gradients against plain draws."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from bmrs_pyro.inference import MeanFieldELBO
from bmrs_pyro.weights import (
    Estimator,
    Flipout,
    LocalReparameterization,
    MeanField,
    PointEstimate,
    WeightModel,
    fit_weights,
)
from tests.weights.programs import batches, blobs, categorical, program

ESTIMATORS = [LocalReparameterization, Flipout]
DRAWS = 1500


def fixed(net: nn.Module) -> tuple[WeightModel, MeanField]:
    model = WeightModel(net, categorical, 10, scales=lambda layer: torch.tensor(0.5))
    return model, MeanField(model.draw, init_scale=0.6)


def outputs(
    model: WeightModel, guide: MeanField, x: Tensor, handler: AbstractContextManager[object]
) -> Tensor:
    """Draws of the output, ``(DRAWS, *output)``."""
    with torch.no_grad(), handler, pyro.validation_enabled(False):
        return torch.stack([_output(model, guide, x) for _ in range(DRAWS)])


def _output(model: WeightModel, guide: MeanField, x: Tensor) -> Tensor:
    trace = poutine.trace(guide).get_trace(x)
    return poutine.replay(model.output, trace=trace)(x)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 2), (4, 3)),
        (nn.Linear(3, 2, bias=False), (2, 5, 3)),
        (nn.Conv1d(2, 3, 2, stride=2), (3, 2, 6)),
        (nn.Conv2d(4, 4, 2, padding=1, groups=2), (2, 4, 3, 3)),
    ],
    ids=["linear", "tokens", "conv1d", "grouped"],
)
def test_moments_of_outputs(estimator: type[Estimator], layer: nn.Module, shape: tuple[int, ...]) -> None:
    model, guide = fixed(layer)
    x = torch.randn(shape)
    found = outputs(model, guide, x, estimator())
    distribution = guide.distributions()["weights"].base_dist
    with torch.no_grad():
        mean = torch.func.functional_call(layer, model.layers[0].parameters(0.5 * distribution.loc), (x,))
        variance_of = model.layers[0].parameters(0.25 * distribution.scale**2)
        variance = torch.func.functional_call(layer, variance_of, (x.square(),))
    error = (variance / DRAWS).sqrt()
    assert ((found.mean(0) - mean).abs() < 5 * error).all()
    # the variance of a variance estimate from normal draws is 2σ⁴/S; flipout's draws have heavier tails at most
    assert ((found.var(0) / variance - 1).abs() < 6 * (2 / DRAWS) ** 0.5).all()


def test_flipout_shares_the_weights_between_positions_and_local_noise_does_not() -> None:
    model, guide = fixed(nn.Conv1d(1, 1, 1, bias=False))
    x = torch.tensor([[[1.0, 1.0]], [[1.0, 1.0]]])  # two examples, two positions
    correlation = {}
    for name, handler in (
        ("plain", nullcontext()),
        ("flipout", Flipout()),
        ("local", LocalReparameterization()),
    ):
        draws = outputs(model, guide, x, handler).flatten(1)
        matrix = torch.corrcoef(draws.T)
        correlation[name] = (matrix[0, 1].item(), matrix[0, 2].item())
    assert correlation["plain"] == pytest.approx((1.0, 1.0))
    assert correlation["flipout"] == pytest.approx((1.0, 0.0), abs=0.06)
    assert correlation["local"] == pytest.approx((0.0, 0.0), abs=0.06)


def gradient_variance(handler: AbstractContextManager[object]) -> float:
    """Total variance of the ELBO's gradient by all locations, over 150 draws."""
    pyro.set_rng_seed(5)
    model, guide = program()
    with torch.no_grad():
        guide.scale = torch.full_like(guide.scale, 0.5)
    x, y = blobs(count=240)
    gradients = []
    for _ in range(150):
        guide.zero_grad()
        with handler, pyro.validation_enabled(False):
            MeanFieldELBO().loss_and_grads(model, guide, x, y)
        gradients.append(guide.loc_unconstrained.grad.clone())
    return torch.stack(gradients).var(0).sum().item()


def test_variance_is_lower_than_of_plain_draws() -> None:
    """With 240 examples a shared draw was measured to have 5 times the variance of either."""
    plain = gradient_variance(nullcontext())
    assert gradient_variance(Flipout()) < plain / 3
    assert gradient_variance(LocalReparameterization()) < plain / 3


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_other_layers_get_the_plain_draw(estimator: type[Estimator]) -> None:
    net = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(8, 3))
    model, guide = fixed(net)
    embedded: list[Tensor] = []
    net[0].register_forward_hook(lambda module, args, value: embedded.append(value))
    x = torch.randint(7, (5, 2))
    with estimator():
        trace = poutine.trace(guide).get_trace(x)
        output = poutine.replay(model.output, trace=trace)(x)
    assert output.shape == (5, 3)
    drawn: dict[str, Any] = {name: site["value"] for name, site in trace.iter_stochastic_nodes()}
    torch.testing.assert_close(embedded, [nn.functional.embedding(x, 0.5 * drawn["weights.0"])])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_pruned_rows_have_finite_gradients_and_no_noise(estimator: type[Estimator]) -> None:
    model, guide = program()
    model.gains["weights.0"][:5] = 0.0
    fit_weights(model, guide, batches(), epochs=2, estimator=estimator())
    assert guide.loc.isfinite().all()
    hidden = WeightModel(nn.Linear(4, 3), categorical, 10)
    hidden.gain.zero_()
    x = torch.randn(6, 4)
    with estimator():
        assert torch.equal(_output(hidden, MeanField(hidden.draw), x).abs() < 1e-15, torch.ones(6, 3).bool())


def test_settings_given_by_keyword() -> None:
    class Keywords(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return nn.functional.linear(input=input, weight=self.weight, bias=self.bias)

    model, guide = fixed(Keywords(3, 2))
    x = torch.ones(2, 3)
    with Flipout():
        first, second = _output(model, guide, x)
    assert not torch.equal(first, second)  # the examples have noise of their own


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_point_estimate_is_refused(estimator: type[Estimator]) -> None:
    model, guide = program()
    x, _ = blobs(count=5)
    with estimator() as used:
        _output(model, guide, x)  # the distributions of an earlier guide do not count
        trace = poutine.trace(PointEstimate(model.draw)).get_trace()
        with pytest.raises(
            TypeError, match=rf"'weights.0' was drawn from a Delta.*{estimator.__name__} needs"
        ):
            poutine.replay(model.output, trace=trace)(x)
    with used, pytest.raises(TypeError, match=r"'weights\.0'"):
        poutine.replay(model.output, trace=trace)(x)


def test_weights_that_were_drawn_outside_are_refused() -> None:
    model, guide = program()
    trace = poutine.trace(guide).get_trace()
    with Flipout(), pytest.raises(TypeError, match=r"'weights\.0' was drawn elsewhere"):
        poutine.replay(model.output, trace=trace)(blobs(count=5)[0])
