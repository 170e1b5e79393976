"""Label smoothing against torch's cross-entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from bmrs_pyro.inference import SmoothedLikelihood


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_log_prob_is_the_smoothed_cross_entropy(smoothing: float) -> None:
    logits, y = 3 * torch.randn(50, 7, dtype=torch.float64), torch.randint(7, (50,))
    law = SmoothedLikelihood(smoothing)(logits)
    expected = -cross_entropy(logits, y, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(law.log_prob(y), expected)
    torch.testing.assert_close(law.expand([3, 50]).log_prob(y), expected.expand(3, 50))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_outside_its_interval_is_named(smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"label smoothing is {smoothing}"):
        SmoothedLikelihood(smoothing)
