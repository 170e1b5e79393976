"""Label smoothing against its formula, written out with the categorical distribution."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from bmrs_pyro.inference import SmoothedLikelihood


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_log_prob_mixes_the_label_with_all(smoothing: float) -> None:
    logits, y = 3 * torch.randn(50, 7, dtype=torch.float64), torch.randint(7, (50,))
    distribution = SmoothedLikelihood(smoothing)(logits)
    plain = dist.Categorical(logits=logits)
    expected = (1 - smoothing) * plain.log_prob(y) + smoothing * plain.logits.mean(-1)
    torch.testing.assert_close(distribution.log_prob(y), expected)
    torch.testing.assert_close(distribution.expand([3, 50]).log_prob(y), expected.expand(3, 50))
    assert (distribution.log_prob(y) == distribution.log_prob(y.unsqueeze(0))).all()


def test_it_is_a_categorical_distribution() -> None:
    logits = 3 * torch.randn(50, 7)
    distribution, plain = SmoothedLikelihood(0.1)(logits), dist.Categorical(logits=logits)
    assert isinstance(distribution, dist.Categorical)
    torch.testing.assert_close(distribution.logits, plain.logits)
    torch.testing.assert_close(distribution.probs, plain.probs)
    torch.testing.assert_close(distribution.entropy(), plain.entropy())
    assert distribution.sample((4,)).shape == (4, 50)
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(torch.full((50,), 7))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_outside_its_interval_is_named(smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"label smoothing is {smoothing}"):
        SmoothedLikelihood(smoothing)


def test_no_label_is_ignored() -> None:
    distribution = SmoothedLikelihood(0.0)(torch.randn(2, 7))
    with pyro.validation_enabled(False), pytest.raises(IndexError, match="-100"):
        distribution.log_prob(torch.tensor([0, -100]))
