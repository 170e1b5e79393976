"""Predictions over draws against their definitions, written as loops over all draws."""

from __future__ import annotations

import pytest
import torch

from bmrs_pyro.metrics import averaged, evaluate, predict
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
