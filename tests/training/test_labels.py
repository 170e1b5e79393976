"""Warnings, before training, of outputs that do not fit the likelihood."""

from __future__ import annotations

import warnings

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from bmrs_pyro import NoisyNetwork, SupervisedModel
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.training.labels import warn_of_probabilities
from tests.inference.programs import FEATURES, NUM_DATA, mlp


@pytest.mark.parametrize(
    ("last", "likelihood", "told"),
    [
        (nn.Softmax(-1), "categorical:0.02", "a softmax"),
        (nn.Sigmoid(), "categorical", "a sigmoid"),
        (
            nn.Sequential(nn.Sigmoid(), nn.Unflatten(1, (1, -1)), nn.Flatten()),
            "bernoulli",
            "a sigmoid",
        ),
        (nn.LogSoftmax(-1), "categorical", None),
        (nn.Softmax(-1), lambda p: dist.Categorical(probs=p), None),
        (nn.Sigmoid(), "normal", None),
        (nn.ReLU(), "categorical", None),
    ],
)
def test_a_last_softmax_or_sigmoid_under_logits(
    last: nn.Module, likelihood: Likelihood | str, told: str | None
) -> None:
    network = NoisyNetwork(nn.Sequential(mlp(), last), torch.zeros(2, FEATURES))
    model = SupervisedModel(network, likelihood, NUM_DATA)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_probabilities(model, torch.randn(6, FEATURES))
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == (told is not None)
    assert all(text.startswith(f"the network ends with {told}, and the likelihood takes") for text in texts)
