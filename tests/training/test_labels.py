"""Warnings of outputs that do not fit the likelihood, and refusals of labels that do not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro import NoisyNetwork, SupervisedModel, prune
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.inference.observations import misfit_of
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.training.labels import warn_of_probabilities
from bmrs_pyro.weights import MeanField, WeightModel, fit_weights
from tests.inference.programs import FEATURES, NUM_DATA, mlp
from tests.weights import programs as weights


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
        (nn.Softmax(-1), lambda p: dist.Categorical(logits=p), "a softmax"),
        (nn.Softmax(-1), lambda p: dist.Categorical(logits=p.log()), None),
        (nn.Softmax(-1), lambda p: dist.OneHotCategorical(logits=p), "a softmax"),
        (nn.Sigmoid(), lambda p: dist.Bernoulli(logits=p).to_event(1), "a sigmoid"),
        (nn.Sigmoid(), lambda p: dist.Bernoulli(probs=p).to_event(1), None),
        (nn.Sigmoid(), lambda p: dist.Bernoulli(logits=p - 0.5).to_event(1), None),
        (nn.Softmax(-1), lambda p: dist.Multinomial(5, logits=p), "a softmax"),
        (nn.Sigmoid(), lambda p: dist.Beta(1 + p, 1 + p).to_event(1), None),
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
        warn_of_probabilities(model, model.network, model.likelihood, torch.randn(6, FEATURES))
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == (told is not None)
    assert all(text.startswith(f"the network ends with {told}, and the likelihood takes") for text in texts)


def test_gaussian_weights_tell_of_a_softmax_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(weights.mlp(), nn.Softmax(-1))
    model = WeightModel(net, lambda p: dist.Categorical(logits=p), weights.NUM_DATA)
    with pytest.warns(
        UserWarning, match="the network ends with a softmax, and the likelihood takes logits"
    ) as caught:
        records = fit_weights(model, MeanField(model.draw), weights.batches(), epochs=2, progress=False)
    assert len(caught) == 1
    assert len(records) == 2


@pytest.fixture
def no_checks() -> Iterator[None]:
    """What the first ``torch.compile`` of a process does to all distributions."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    yield
    assert torch.distributions.Distribution._validate_args is False, "the setting is left as it was"
    torch.distributions.Distribution.set_default_validate_args(before)


@pytest.mark.usefixtures("no_checks")
@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize(("likelihood", "wrong"), [("bernoulli", 7.0), ("poisson", -3.0), ("poisson", 2.5)])
@pytest.mark.parametrize("way", ["reduction", "path", "evaluate", "weights"])
def test_a_label_outside_the_support_is_refused_after_torch_compile_too(
    way: str, likelihood: str, wrong: float, late: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(160, FEATURES)
    y = (x[:, :1] > 0).float()
    labels = y.clone()
    labels[32 * late + 5] = wrong

    def batches(y: Tensor) -> list[tuple[Tensor, Tensor]]:
        return list(zip(x.split(32), y.split(32), strict=True))

    net = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 1))
    kept: dict[str, Any] = {
        "validation": batches(y),
        "likelihood": likelihood,
        "progress": False,
        "epochs": 2,
    }

    def fit_gaussian_weights() -> None:
        model = WeightModel(net, likelihood, len(x))
        fit_weights(model, MeanField(model.draw), batches(labels), epochs=2, progress=False)

    ways: dict[str, Callable[[], object]] = {
        "reduction": lambda: prune(net, batches(labels), trained=True, max_macs="50%", **kept),
        "path": lambda: prune(net, batches(labels), dense_epochs=2, **kept),
        "evaluate": lambda: evaluate(net, batches(labels), likelihood=likelihood),
        "weights": fit_gaussian_weights,
    }
    binary = way == "evaluate" and likelihood == "bernoulli"
    with pytest.raises(ValueError, match="the labels reach from 0 to 7" if binary else f"such as {wrong:g}"):
        ways[way]()


def test_labels_without_the_last_dimension_are_named_one_by_one() -> None:
    """An event of one value made a batch of labels look like a single label, and 0 like the wrong one."""
    likelihood = dist.Bernoulli(logits=torch.zeros(16, 1)).to_event(1)
    labels = torch.arange(16.0).remainder(10)
    text = misfit_of(likelihood, labels)
    assert text is not None
    assert text.startswith("12 of the 16 labels")
    assert "such as 2;" in text
    assert misfit_of(likelihood, labels.clamp(max=1)) is None
