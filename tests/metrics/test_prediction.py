"""Predictions over draws against their definitions, written as loops over all draws."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.inference import AutoTruncatedLogNormal, Mixture, SupervisedModel
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.metrics import ClassPrediction, ValuePrediction, averaged, evaluate, predict
from bmrs_pyro.network import NoisyNetwork
from tests.metrics.programs import K, N, program


def test_moments_and_entropies_are_those_of_the_draws() -> None:
    guide, x, _ = program()
    network, posteriors = guide.model.network, guide.posteriors()
    torch.manual_seed(3)
    result = predict(network, posteriors, x, draws=50)
    torch.manual_seed(3)
    draws = [
        network(x, {name: q.sample() for name, q in posteriors.items()}).double().softmax(1).detach()
        for _ in range(50)
    ]
    p = torch.stack(draws)
    doubt = torch.stack([torch.distributions.Categorical(draw).entropy() for draw in draws]).mean(0)
    total = torch.distributions.Categorical(p.mean(0)).entropy()
    torch.testing.assert_close(result.mean, p.mean(0), rtol=1e-10, atol=0)
    torch.testing.assert_close(result.variance, p.var(0, correction=0), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(result.entropy, total, rtol=1e-10, atol=0)
    torch.testing.assert_close(result.mutual_information, total - doubt, rtol=1e-7, atol=1e-12)
    assert (result.mutual_information > 1e-4).all()


def test_known_gains_leave_no_mutual_information() -> None:
    guide, x, _ = program()
    guide.scale = torch.full_like(guide.scale, 1e-6)
    result = predict(guide.model.network, guide.posteriors(), x, draws=5)
    assert result.mutual_information.max() < 1e-9
    assert result.variance.max() < 1e-9


def test_certain_predictions_have_entropy_zero_not_nan() -> None:
    guide, x, _ = program()
    last = guide.model.network.net[4]
    last.weight.data.zero_()
    last.bias.data = torch.tensor([3000.0, 0.0, -3000.0])
    result = predict(guide.model.network, guide.posteriors(), x, draws=3)
    assert result.entropy.abs().max() < 1e-12
    assert result.log_mean[:, 2].tolist() == [-6000.0] * N


def test_averaged_feeds_the_evaluation() -> None:
    guide, x, y = program()
    network, posteriors = guide.model.network, guide.posteriors()
    torch.manual_seed(0)
    result = evaluate(averaged(network, posteriors, 20), [(x, y)], K)
    torch.manual_seed(0)
    p = predict(network, posteriors, x, 20).mean
    assert result.nll == pytest.approx(float(-p[torch.arange(N), y].log().mean()), rel=1e-12)


def test_modes_and_gradients_are_left_alone() -> None:
    guide, x, _ = program()
    network: NoisyNetwork = guide.model.network.train()
    result = predict(network, guide.posteriors(), x, draws=2)
    assert network.training
    assert not result.log_mean.requires_grad


def test_wrong_use_is_refused() -> None:
    guide, x, _ = program()
    with pytest.raises(ValueError, match="draws is 0"):
        predict(guide.model.network, guide.posteriors(), x, draws=0)
    with pytest.raises(TypeError, match=r"draws is 1\.5; give a whole number"):
        predict(guide.model.network, guide.posteriors(), x, draws=1.5)  # type: ignore[call-overload]


class Sequence(nn.Module):
    """Outputs for every time step of ``(batch, time, 5)``."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


def over_time(outputs: int, likelihood: str | Likelihood) -> tuple[AutoTruncatedLogNormal, Tensor]:
    torch.manual_seed(0)
    network = NoisyNetwork(Sequence(outputs), torch.zeros(1, 7, 5))
    model = SupervisedModel(network, likelihood, N)
    return AutoTruncatedLogNormal(model, init_loc=-1.0, init_log_scale=0.0), torch.randn(N, 7, 5)


def test_values_have_moments_of_noise_and_of_gains() -> None:
    guide, x = over_time(4, "normal:predicted")
    network, posteriors = guide.model.network, guide.posteriors()
    torch.manual_seed(3)
    result = predict(network, posteriors, x, 50, likelihood=guide.model.likelihood)
    assert isinstance(result, ValuePrediction)
    torch.manual_seed(3)
    with torch.no_grad():
        draws = [network(x, {name: q.sample() for name, q in posteriors.items()}) for _ in range(50)]
    loc, raw = torch.stack(draws).double().chunk(2, -1)
    noise = nn.functional.softplus(raw).square().mean(0)
    assert result.mean.shape == (N, 7, 2)
    torch.testing.assert_close(result.mean.double(), loc.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.expected_variance.double(), noise, rtol=1e-4, atol=0)
    torch.testing.assert_close(result.variance.double(), noise + loc.var(0, correction=0), rtol=1e-4, atol=0)


def test_every_label_of_a_sequence_has_its_entropy() -> None:
    guide, x = over_time(K, "categorical")
    network, posteriors = guide.model.network, guide.posteriors()
    torch.manual_seed(0)
    result = predict(network, posteriors, x, 20, likelihood="categorical")
    assert isinstance(result, ClassPrediction)
    assert (result.mean.shape, result.entropy.shape) == ((N, 7, K), (N, 7))
    # a time step at a time, as an example of its own
    torch.manual_seed(0)
    flat = predict(network, posteriors, x.flatten(0, 1), 20)
    torch.testing.assert_close(result.mean.flatten(0, 1), flat.mean)
    torch.testing.assert_close(result.mutual_information.flatten(), flat.mutual_information)


def test_zero_and_one_have_the_entropy_of_two_classes() -> None:
    guide, x = over_time(2, "bernoulli")
    network, posteriors = guide.model.network, guide.posteriors()
    torch.manual_seed(0)
    result = predict(network, posteriors, x, 1, likelihood="bernoulli")
    assert isinstance(result, ClassPrediction)
    torch.manual_seed(0)
    with torch.no_grad():
        logits = network(x, {name: q.sample() for name, q in posteriors.items()}).double()
    torch.testing.assert_close(result.mean[..., 1], logits.sigmoid())
    torch.testing.assert_close(result.entropy, torch.distributions.Bernoulli(logits=logits).entropy())


@pytest.mark.parametrize(
    ("name", "outputs"), [("normal:0.5", 2), ("categorical", K), ("next-token", K), ("bernoulli", 1)]
)
def test_averaged_feeds_the_evaluation_of_every_likelihood(name: str, outputs: int) -> None:
    guide, x = over_time(outputs, name)
    network, posteriors = guide.model.network, guide.posteriors()
    y = torch.randn(N, 7, 2) if name == "normal:0.5" else torch.randint(0, 2, (N, 7))
    y = y.unsqueeze(-1) if name == "bernoulli" else y
    torch.manual_seed(0)
    function = averaged(network, posteriors, 20, likelihood=name)
    result = evaluate(function, [(x, y)], likelihood=name)
    torch.manual_seed(0)
    if name == "normal:0.5":
        mixed = function(x)
        assert isinstance(mixed, Mixture)
        parts = torch.stack([part.log_prob(y) for part in mixed.components])
        assert result.nll == pytest.approx(-(parts.logsumexp(0) - math.log(20)).mean().item(), rel=1e-9)
        return
    prediction = predict(network, posteriors, x, 20, likelihood=name)
    p = prediction.mean.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    p = p[:, 1:] if name == "next-token" else p
    assert result.nll == pytest.approx(-p.log().mean().item(), rel=1e-9)


@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [
        ("bernoulli", 1),
        (lambda z: dist.Bernoulli(logits=z[:, 0]), 2),
        (lambda z: dist.Categorical(logits=5 * z), K),
    ],
    ids=["bernoulli", "own bernoulli", "sharpened"],
)
def test_a_likelihood_is_not_applied_twice(likelihood: str | Likelihood, outputs: int) -> None:
    guide, x = over_time(outputs, likelihood)
    network, posteriors = guide.model.network, guide.posteriors()
    x, y = x[:, 0], torch.randint(0, 2, (N,))
    torch.manual_seed(0)
    p = predict(network, posteriors, x, 20, likelihood=likelihood).mean.gather(1, y.unsqueeze(1))
    torch.manual_seed(0)
    result = evaluate(
        averaged(network, posteriors, 20, likelihood=likelihood), [(x, y)], likelihood=likelihood
    )
    assert result.nll == pytest.approx(-p.log().mean().item(), rel=1e-6)


def test_one_output_is_not_taken_for_a_class() -> None:
    guide, x = over_time(1, "normal:1")
    with pytest.raises(
        ValueError, match=r"\(40, 1\); expected logits .* of two or more classes.* likelihood="
    ):
        predict(guide.model.network, guide.posteriors(), x[:, 0])
    with pytest.raises(ValueError, match=r"does not run on a batch of inputs \(\(2, 9\) torch.float32\)"):
        predict(guide.model.network, guide.posteriors(), torch.zeros(2, 9))
    with pytest.raises(ValueError, match="Cauchy has no mean"):
        predict(
            guide.model.network, guide.posteriors(), x[:, 0], likelihood=lambda z: dist.Cauchy(z[:, 0], 1.0)
        )
