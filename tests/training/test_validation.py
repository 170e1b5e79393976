"""Scores of held-out data: batches as torch's loaders make them, and those with nothing in them."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from sklearn.metrics import accuracy_score, root_mean_squared_error
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bmrs_pyro import NoisyNetwork, SupervisedModel, prune
from bmrs_pyro.training.validation import Score, mean_of, validate
from tests.inference.programs import CLASSES, FEATURES, NUM_DATA, batches, blobs, categorical, mlp, program


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(3, 8), nn.Linear(2, 8), nn.Linear(8, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.left(a) + self.right(b)))
        return out


def test_several_inputs_may_be_a_list() -> None:
    network = NoisyNetwork(Two(), torch.zeros(1, 3), torch.zeros(1, 2))
    model = SupervisedModel(network, categorical, NUM_DATA)
    x, y = blobs(count=64)
    examples = [((a[:3], a[3:]), b) for a, b in zip(x, y, strict=True)]
    loader: DataLoader[Any] = DataLoader(examples, batch_size=16)  # type: ignore[arg-type]
    assert isinstance(next(iter(loader))[0], list)
    distribution = dist.Categorical(logits=network((x[:, :3], x[:, 3:])))
    found = validate(model, {}, loader)
    assert found.log_likelihood == pytest.approx(distribution.log_prob(y).mean().item(), rel=1e-5)
    assert found.accuracy == pytest.approx((distribution.logits.argmax(-1) == y).double().mean().item())


def test_a_batch_without_examples_counts_nothing() -> None:
    model, _ = program()
    empty = torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.long)
    assert validate(model, {}, [empty, *batches(), empty]) == validate(model, {}, batches())
    with pytest.raises(ValueError, match="the validation data hold no examples"):
        validate(model, {}, [empty])
    with pytest.raises(ValueError, match="the validation data hold no examples"):
        validate(model, {}, DataLoader(TensorDataset(*empty), batch_size=4))


class Masked(nn.Module):
    """Reads only what is finite, as an attention that is given a mask of −inf."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.nan_to_num(0.0, 0.0, 0.0))
        return out


def test_gaps_are_refused_where_they_reach_the_score() -> None:
    x, y = blobs(count=64)
    assert mean_of([(x, y)]) == pytest.approx((x.sum() + y.sum()).item() / 64, rel=1e-5)
    x[5, 0] = math.nan
    for trained in (False, True):
        options = {"validation": [(x, y)], "trained": trained, "epochs": 2, "progress": False}
        with pytest.raises(ValueError, match="validation data hold NaN or inf"):
            prune(mlp(8), batches(), **options)  # type: ignore[arg-type]
    x[5, 0] = -math.inf
    assert prune(Masked(), batches(), validation=[(x, y)], epochs=2, dense_epochs=1, progress=False).point


class Reshaped(nn.Module):
    """Gives every example outputs of a shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, math.prod(shape))
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.tanh(self.first(x)))
        return out.reshape(len(x), *self.shape)


def scored(net: nn.Module, likelihood: Any, y: Tensor) -> tuple[Tensor, Score]:
    """Return outputs at gains of 1, and the score of batches of 7 and the rest."""
    torch.manual_seed(0)
    x = torch.randn(len(y), FEATURES)
    model = SupervisedModel(NoisyNetwork(net, x[:2]), likelihood, len(y))
    with torch.no_grad():
        return net.eval()(x), validate(model, {}, list(zip(x.split(7), y.split(7), strict=True)))


TOKENS, MAPS = torch.randint(0, 4, (20, 6)), torch.randint(0, 4, (20, 5, 3))


@pytest.mark.parametrize(
    ("shape", "likelihood", "y"),
    [
        ((6, 4), lambda z: dist.Categorical(logits=z).to_event(1), TOKENS),
        ((6, 4), "categorical", TOKENS.where(TOKENS != 2, -100)),
        ((6, 4), lambda z: dist.Categorical(logits=z).mask(z[..., 0] > 0).to_event(1), TOKENS),
        ((4, 5, 3), "categorical", MAPS),
    ],
    ids=["tokens", "padded", "masked", "pixels"],
)
def test_accuracy_is_the_share_of_all_labels_that_count(
    shape: tuple[int, ...], likelihood: Any, y: Tensor
) -> None:
    z, score = scored(Reshaped(*shape), likelihood, y)
    logits = z.movedim(1, -1) if y is MAPS else z
    counted = y >= 0
    if callable(likelihood) and "mask" in likelihood.__code__.co_names:
        counted = logits[..., 0] > 0
    assert score.accuracy == pytest.approx(accuracy_score(y[counted], logits.argmax(-1)[counted]))
    assert 0 < score.accuracy < 1
    assert score.rmse is None
    log_p = logits.log_softmax(-1).gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    assert score.log_likelihood == pytest.approx((log_p * counted).sum().item() / len(y), rel=1e-5)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)])
@pytest.mark.parametrize("name", ["normal:0.7", "student-t:0.7", "poisson"])
def test_values_have_a_root_mean_square_error(shape: tuple[int, ...], name: str) -> None:
    y = torch.randint(0, 5, (20, *shape)).float()
    z, score = scored(Reshaped(*shape), name, y.squeeze(1) if shape == (1,) else y)
    mean = z.exp() if name == "poisson" else z
    assert score.accuracy is None
    assert score.rmse == pytest.approx(root_mean_squared_error(y.flatten(), mean.flatten()), rel=1e-5)
    if name == "normal:0.7":
        expected = dist.Normal(z, 0.7).log_prob(y).flatten(1).sum(1).mean().item()
        assert score.log_likelihood == pytest.approx(expected, rel=1e-5)


def test_a_distribution_without_a_mean_has_a_likelihood_alone() -> None:
    _, score = scored(Reshaped(3), lambda z: dist.Cauchy(z, 1.0).to_event(1), torch.randn(20, 3))
    assert (score.accuracy, score.rmse) == (None, None)
    assert math.isfinite(score.log_likelihood)


def test_values_of_another_shape_are_refused() -> None:
    # one column more or less says the same
    _, score = scored(Reshaped(1), lambda z: dist.Normal(z, 1.0).to_event(1), torch.ones(20))
    _, again = scored(Reshaped(1), lambda z: dist.Normal(z, 1.0).to_event(1), torch.ones(20, 1))
    assert score.rmse is not None
    assert again.rmse is not None
    with pytest.raises(ValueError, match=r"y has shape \(7, 3\), .* values have shape \(7, 2\)"):
        scored(Reshaped(2), "normal:1", torch.ones(20, 3))


def test_classes_that_the_network_lacks_are_refused_in_one_line() -> None:
    model, _ = program()
    data = [(x, y + CLASSES) for x, y in batches()]
    with pytest.raises(ValueError, match=rf"^validation: the network has {CLASSES} outputs, for labels .*$"):
        validate(model, {}, data)


def test_every_module_keeps_its_mode() -> None:
    model, _ = program()
    model.network.eval()
    model.network.net[0].train()
    modes = [module.training for module in model.modules()]
    validate(model, {}, batches())
    assert [module.training for module in model.modules()] == modes
