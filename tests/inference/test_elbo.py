"""The objective: closed KL, equal values on every road to it, and the right ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from scipy import integrate, stats
from torch import Tensor, nn

from bmrs_pyro import AutoTruncatedLogNormal, LogUniform, MeanFieldELBO, NoisyNetwork, SupervisedModel
from bmrs_pyro.inference import KLWeight, NonFiniteLoss
from bmrs_pyro.inference.model import Inputs
from tests.inference.programs import FEATURES, NUM_DATA, blobs, categorical, mlp, program

ELBOS = [MeanFieldELBO, TraceMeanField_ELBO]
LOW, HIGH = math.exp(-20.0), 1.0


def constant_likelihood(outputs: Tensor) -> dist.TorchDistribution:
    """A likelihood that does not look at the outputs, so that the loss is the KL and a constant."""
    return dist.Categorical(logits=torch.zeros_like(outputs))


@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("draws", ["example", "batch", 10])
@pytest.mark.parametrize("weight", ["elbo", ("mean", 0.3), ("cost", 0.3)])
def test_two_evaluations_without_likelihood_are_equal(elbo: type, draws: str, weight: object) -> None:
    model, guide = program(draws=draws, kl_weight=weight)
    model.likelihood = constant_likelihood
    x, y = blobs()
    first, second = (elbo().loss(model, guide, x, y) for _ in range(2))
    assert first == second
    kl = sum(
        model.kl_scales[name] * torch.distributions.kl_divergence(q, model.prior).sum().item()
        for name, q in guide.posteriors().items()
    )
    assert first == pytest.approx(kl + NUM_DATA * math.log(3), rel=1e-5)


@pytest.mark.parametrize("draws", ["example", "batch", 10])
def test_equals_stock_pyro_in_value_and_gradient(draws: str) -> None:
    model, guide = program(draws=draws, kl_weight=("mean", 0.7))
    x, y = blobs()
    values, gradients = [], []
    for elbo in ELBOS:
        model.zero_grad()
        guide.zero_grad()
        pyro.set_rng_seed(3)
        values.append(elbo().loss_and_grads(model, guide, x[:50], y[:50]))
        gradients.append([p.grad.clone() for p in [*model.parameters(), *guide.parameters()]])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    for ours, stock in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("draws", ["example", "batch", 10])
def test_untraced_sum_equals_the_traced_one(draws: str) -> None:
    """With validation off no site is traced; the random numbers, the value and the gradients are the same."""
    model, guide = program(draws=draws, kl_weight=("cost", 0.7))
    x, y = blobs()
    values, gradients = [], []
    for validate in (True, False):
        model.zero_grad()
        guide.zero_grad()
        pyro.set_rng_seed(3)
        with pyro.validation_enabled(validate):
            values.append(MeanFieldELBO(num_particles=2).loss_and_grads(model, guide, x[:50], y[:50]))
            pyro.set_rng_seed(3)
            assert MeanFieldELBO(num_particles=2).loss(model, guide, x[:50], y[:50]) == pytest.approx(
                values[-1], rel=1e-6
            )
        gradients.append([p.grad.clone() for p in [*model.parameters(), *guide.parameters()]])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    for traced, untraced in zip(*gradients, strict=True):
        torch.testing.assert_close(untraced, traced, rtol=1e-5, atol=1e-6)


def test_handlers_are_respected_with_validation_off() -> None:
    model, guide = program()
    x, y = blobs()
    with pyro.validation_enabled(False):
        pyro.set_rng_seed(3)
        whole = MeanFieldELBO().loss(model, guide, x, y)
        pyro.set_rng_seed(3)
        with poutine.scale(scale=0.5):
            assert MeanFieldELBO().loss(model, guide, x, y) == pytest.approx(0.5 * whole, rel=1e-6)
        pyro.set_rng_seed(3)
        seen = []

        def note(site: Any) -> Any:
            seen.append(site["name"])
            return {}

        with poutine.infer_config(config_fn=note):
            MeanFieldELBO().loss(model, guide, x, y)
        assert {"theta.0", "theta.2", "y"} <= set(seen)


def test_packed_guide_equals_one_written_out_by_family() -> None:
    model, guide = program()
    with torch.no_grad():
        guide.loc.uniform_(-6, 0)
        guide.scale = torch.rand_like(guide.scale) + 0.1
    found = guide.posteriors()

    def written_out(x: Tensor, y: Tensor | None = None) -> None:
        with model.latent(model.draw_shape(x)):
            for name, q in found.items():
                pyro.sample(name, q.expand([*model.draw_shape(x), *q.batch_shape]).to_event(1))

    x, y = blobs()
    model.likelihood = constant_likelihood
    for elbo in ELBOS:
        assert elbo().loss(model, guide, x, y) == pytest.approx(
            elbo().loss(model, written_out, x, y), rel=1e-6
        )
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    for name, q in found.items():
        site: Any = trace.nodes[name]
        expected = q.log_prob(site["value"]).sum(-1) * site["scale"]
        torch.testing.assert_close(site["log_prob"], expected)
        assert site["value"].shape == (*model.draw_shape(x), *q.batch_shape)


@pytest.mark.parametrize("elbo", ELBOS)
def test_one_site_model_against_quadrature(elbo: type) -> None:
    """E_q log p(y | θ) − KL for y ~ N(2θ₁, 0.5²) and a second gain nothing depends on; integrals by scipy."""
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[2.0], [5.0]]))
        net[1].weight.copy_(torch.tensor([[1.0, 0.0]]))
    network = NoisyNetwork(net, torch.ones(1, 1, dtype=torch.float64))
    model = SupervisedModel(
        network, lambda out: dist.Normal(out.squeeze(-1), 0.5), 1, prior=LogUniform(LOW, HIGH), draws="batch"
    )
    guide = AutoTruncatedLogNormal(model, init_loc=-1.0, init_log_scale=math.log(0.8))
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64)
    q = stats.truncnorm((-20 + 1) / 0.8, (0 + 1) / 0.8, loc=-1.0, scale=0.8)

    def expectation(function: Callable[[float], float]) -> float:
        return integrate.quad(lambda u: q.pdf(u) * function(u), -20, 0, points=[-1], limit=200)[0]

    likelihood = expectation(lambda u: stats.norm.logpdf(0.9, 2 * np.exp(u), 0.5))
    kl = expectation(lambda u: q.logpdf(u) + math.log(20))
    pyro.set_rng_seed(1)
    draws = torch.tensor([elbo().loss(model, guide, x, y) for _ in range(4000)], dtype=torch.float64)
    error = draws.std().item() / math.sqrt(len(draws))
    assert error < 0.02
    assert -draws.mean().item() == pytest.approx(likelihood - 2 * kl, abs=4 * error)


def test_draws_per_example_and_per_batch_have_the_same_expectation() -> None:
    x, y = blobs()
    means, errors = [], []
    for draws in ("example", "batch"):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide = program(draws=draws)
        with torch.no_grad():
            guide.scale = torch.full_like(guide.scale, 0.7)
        losses = torch.tensor([MeanFieldELBO().loss(model, guide, x, y) for _ in range(600)])
        means.append(losses.mean().item())
        errors.append(losses.std().item() / math.sqrt(len(losses)))
    assert abs(means[0] - means[1]) < 4 * math.hypot(*errors)
    assert errors[0] < errors[1]  # the reason for one draw per example


def test_a_kl_without_closed_form_raises() -> None:
    def model() -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide() -> None:
        pyro.sample("z", dist.Cauchy(0.0, 1.0))

    with pytest.raises(NotImplementedError, match="'z'"):
        MeanFieldELBO().loss(model, guide)


def test_non_finite_loss_names_the_culprit() -> None:
    pyro.enable_validation(False)  # with validation on, the distributions notice first
    model, guide = program()
    x, y = blobs()
    x[3, 2] = math.nan
    with pytest.raises(NonFiniteLoss, match="the data"):
        MeanFieldELBO().loss(model, guide, x, y)
    x[3, 2] = 0.0
    with torch.no_grad():
        guide.loc[0] = math.nan
    with pytest.raises(NonFiniteLoss, match="theta"):
        MeanFieldELBO().loss(model, guide, x, y)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("elbo", KLWeight("elbo", 1.0)),
        ("mean:0.3", KLWeight("mean", 0.3)),
        (("cost", 0.05), KLWeight("cost", 0.05)),
        ("cost-macs:2", KLWeight("cost", 2.0, "macs")),
        ("cost-parameters", KLWeight("cost", 1.0)),
        (["cost-macs", 1], KLWeight("cost", 1.0, "macs")),
        (0.5, KLWeight("elbo", 0.5)),
        (2, KLWeight("elbo", 2.0)),
    ],
)
def test_kl_weight_is_read(value: object, expected: KLWeight) -> None:
    assert KLWeight.parse(value) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        *(
            "middle",
            "mean:x",
            "mean:-1",
            "mean:nan",
            "mean-macs:0.3",
            "elbo-parameters",
            "mean-",
            "cost-:1",
            "mean:",
            "0.3",
        ),
        *("cost-macs-macs:1", "mean:0.3:0.4", ("cost-time", 1.0), ("mean-macs", 0.3), ("mean", 0.3, "macs")),
        *(("mean", None), (0.3, "mean"), 0.0, True, None, {"mean": 0.3}),
    ],
)
def test_bad_kl_weight_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="KL weight") as caught:
        KLWeight.parse(value)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (isinstance(value, str) and "or a number" in str(caught.value))  # a text such as "0.3" is none
    with pytest.raises(ValueError, match="counts no cost"):
        KLWeight("mean", 0.3, "macs")


def test_kl_weights_follow_their_definitions() -> None:
    model, _ = program(kl_weight=("mean", 0.3))
    network = model.network
    assert KLWeight("mean", 0.3).scales(network, NUM_DATA) == pytest.approx(
        {s.name: 0.3 * NUM_DATA / (2 * s.size) for s in network.structures}
    )
    # by hand: producers and consumers of hidden layer 1 hold 5·12 + 12 + 12·12 values, of layer 2 12·12 + 12 + 12·3
    first, second = 5 * 12 + 12 + 144, 144 + 12 + 36
    shares = [first / (first + second), second / (first + second)]
    scales = KLWeight("cost", 2.0).scales(network, NUM_DATA)
    assert list(scales.values()) == pytest.approx([2.0 * NUM_DATA * share / 12 for share in shares])


def both_losses(model: SupervisedModel, guide: AutoTruncatedLogNormal) -> list[float]:
    """Losses of the same draws with Pyro's validation, which has all sites traced, and without."""
    losses = []
    for validation in (True, False):
        pyro.set_rng_seed(0)
        with pyro.validation_enabled(validation):
            losses.append(MeanFieldELBO().loss(model, guide, *blobs()))
    return losses


class Penalised(SupervisedModel):
    def forward(self, x: Inputs, y: Tensor | None = None) -> Tensor:
        value = super().forward(x, y)
        pyro.factor("penalty", torch.tensor(-1000.0))
        return value


def test_a_model_that_scores_more_is_traced_with_validation_off_too() -> None:
    network = NoisyNetwork(mlp(), torch.zeros(1, FEATURES))
    model = Penalised(network, categorical, NUM_DATA)
    guide = AutoTruncatedLogNormal(model)
    traced, untraced = both_losses(model, guide)
    assert traced == pytest.approx(untraced, rel=1e-6)
    assert traced > 1000


def test_changed_kl_weights_count_from_the_next_step_on() -> None:
    model, guide = program()
    for factor in (1.0, 100.0):
        model.kl_scales = dict.fromkeys(model.kl_scales, factor)
        traced, untraced = both_losses(model, guide)
        assert traced == pytest.approx(untraced, rel=1e-5)


def test_a_second_guide_in_one_store_is_refused_and_keeps_its_values() -> None:
    x, _ = blobs()
    model, first = program()
    second = AutoTruncatedLogNormal(model, init_loc=-1.0)
    first(x)
    with pytest.raises(
        RuntimeError, match=r"another tensor as 'AutoTruncatedLogNormal\.loc': a second guide"
    ):
        second(x)
    with pytest.raises(RuntimeError, match="a second guide"):
        second.draw(x)
    pyro.clear_param_store()
    second(x)
    assert (second.loc == -1.0).all()


def test_stored_values_are_taken_up_by_name() -> None:
    x, _ = blobs()
    model, first = program()
    with torch.no_grad():
        first.loc.sub_(0.5)
    first(x)
    store = pyro.get_param_store().get_state()
    pyro.clear_param_store()
    pyro.get_param_store().set_state(store)
    second = AutoTruncatedLogNormal(model)
    second.loc = pyro.param("AutoTruncatedLogNormal.loc").detach()
    second.scale = pyro.param("AutoTruncatedLogNormal.scale").detach()
    pyro.clear_param_store()
    second(x)
    assert torch.equal(second.loc, first.loc)
    torch.testing.assert_close(second.scale, first.scale)
