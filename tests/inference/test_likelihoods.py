"""Named likelihoods against distributions and losses of torch, and formulas written out."""

from __future__ import annotations

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, poisson_nll_loss, softplus

from bmrs_pyro import AutoTruncatedLogNormal, NoisyNetwork, SupervisedModel, fit
from bmrs_pyro.inference import ScaledLikelihood, SmoothedLikelihood, as_likelihood
from bmrs_pyro.inference.outcomes import labels_counted
from bmrs_pyro.inference.smoothed_categorical import SmoothedCategorical


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


@pytest.mark.parametrize("shape", [(4, 7), (4, 5, 7), (4, 7, 3, 2), (4, 7, 2, 3, 2)])
@pytest.mark.parametrize("name", ["categorical", "categorical:0.1"])
def test_categorical_is_the_cross_entropy_of_every_label(shape: tuple[int, ...], name: str) -> None:
    logits = torch.randn(shape, dtype=torch.float64)
    classes_second = logits.movedim(-1, 1) if len(shape) == 3 else logits
    y = torch.randint(7, (4, *classes_second.shape[2:]))
    several = len(shape) > 2
    if several:
        y[0, 0] = y[2, 1] = -100
    distribution = as_likelihood(name)(logits)
    assert (distribution.batch_shape, distribution.shape()) == ((4,), y.shape)
    smoothing = 0.1 if ":" in name else 0.0
    losses = cross_entropy(classes_second, y, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(distribution.log_prob(y), -losses.reshape(4, -1).sum(1))
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(torch.full_like(y, 7))


def test_next_token_scores_what_comes_after() -> None:
    logits, y = torch.randn(3, 6, 9, dtype=torch.float64), torch.randint(9, (3, 6))
    y[1, 4:] = -100  # padding
    distribution = as_likelihood("next-token")(logits)
    losses = cross_entropy(logits[:, :-1].movedim(-1, 1), y[:, 1:], reduction="none")
    assert distribution.shape() == (3, 6)
    torch.testing.assert_close(distribution.log_prob(y), -losses.sum(1))


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 4), (6, 1, 3, 2)])
@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32])
def test_bernoulli_takes_every_kind_of_zero_and_one(shape: tuple[int, ...], kind: torch.dtype) -> None:
    logits = torch.randn(shape)
    y = torch.randint(2, shape).squeeze(1 if shape == (6, 1) else ()).to(kind)
    losses = binary_cross_entropy_with_logits(logits.reshape(y.shape), y.float(), reduction="none")
    found = as_likelihood("bernoulli")(logits).log_prob(y)
    torch.testing.assert_close(found, -losses.reshape(6, -1).sum(1))


def test_poisson_has_the_outputs_for_log_rates() -> None:
    log_rates, y = torch.randn(6, 3), torch.randint(5, (6, 3))
    found = as_likelihood("poisson")(log_rates).log_prob(y)
    losses = poisson_nll_loss(log_rates, y.float(), reduction="none") + (y + 1.0).lgamma()
    torch.testing.assert_close(found, -losses.sum(1))


def test_scales_are_fixed_learned_or_predicted() -> None:
    outputs, y = torch.randn(6, 4), torch.randn(6, 4)
    fixed = as_likelihood("normal:0.3")(outputs).log_prob(y)
    torch.testing.assert_close(fixed, dist.Normal(outputs, 0.3).log_prob(y).sum(1))
    learned = as_likelihood("student-t")
    assert isinstance(learned, ScaledLikelihood)
    learned.log_scale.data.fill_(0.5)
    expected = dist.StudentT(4.0, outputs, torch.tensor(0.5).exp()).log_prob(y).sum(1)
    torch.testing.assert_close(learned(outputs).log_prob(y), expected)
    predicted = as_likelihood("normal:predicted")
    expected = dist.Normal(outputs[:, :2], softplus(outputs[:, 2:])).log_prob(y[:, :2]).sum(1)
    torch.testing.assert_close(predicted(outputs).log_prob(y[:, :2]), expected)
    maps = torch.randn(6, 4, 3, 3)
    assert predicted(maps).shape() == (6, 2, 3, 3)
    assert predicted(outputs[:, :2]).shape() == (6,)
    with pytest.raises(ValueError, match="as many scales as locations"):
        predicted(outputs[:, :3])


def test_a_learned_scale_ends_at_the_root_mean_square_error() -> None:
    likelihood, y = ScaledLikelihood(), 0.3 * torch.randn(2000)
    optimiser = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -likelihood(torch.zeros(2000, 1)).log_prob(y).mean()
        value.backward()
        return value

    optimiser.step(loss)
    assert likelihood.log_scale.exp().item() == pytest.approx(y.square().mean().sqrt().item(), rel=1e-4)


def test_outputs_with_fields_are_read() -> None:
    logits, y = torch.randn(3, 7), torch.tensor([0, 1, 2])
    expected = as_likelihood("categorical")(logits).log_prob(y)
    for found in ({"hidden": y, "logits": logits}, {"out": logits}, SimpleNamespace(logits=logits)):
        torch.testing.assert_close(as_likelihood("categorical")(found).log_prob(y), expected)
    with pytest.raises(
        TypeError, match=r"outputs are a tuple without a tensor 'logits'.* the command, return one"
    ):
        as_likelihood("categorical")((logits, y))


def test_what_is_no_likelihood_is_named() -> None:
    for name in ("gauss", "poisson:1", "normal:", "normal:-1", "normal:wide", "categorical:2", "bernoulli:"):
        with pytest.raises(ValueError, match=f"likelihood is '{name}'"):
            as_likelihood(name)
    with pytest.raises(TypeError, match="likelihood is a int"):
        as_likelihood(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(7,\); expected \(batch, K\)"):
        as_likelihood("categorical")(torch.zeros(7))


TASKS = {
    "categorical": (3, torch.tensor([0, 1, 2, 1])),
    "bernoulli": (2, torch.tensor([[0, 1], [1, 1], [1, 0], [0, 0]])),
    "normal": (1, torch.randn(4)),
    "normal:predicted": (4, torch.randn(4, 2)),
    "student-t:0.5": (2, torch.randn(4, 2)),
    "poisson": (1, torch.tensor([0, 3, 1, 7])),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_model_trains_with_a_named_likelihood(name: str) -> None:
    outputs, y = TASKS[name]
    pyro.set_rng_seed(0)
    network = NoisyNetwork(
        nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs)), torch.zeros(1, 5)
    )
    model = SupervisedModel(network, name, len(y))
    batches = [(torch.randn(4, 5), y)]
    guide = AutoTruncatedLogNormal(model)
    history = fit(model, guide, batches, epochs=2, fine_tune_epochs=0, validation=batches, progress=False)
    record = history[-1]
    assert record.log_likelihood is not None
    assert (record.accuracy is None, record.rmse is None) == (
        (False, True) if name in ("categorical", "bernoulli") else (True, False)
    )


def test_the_axis_of_classes_can_be_said_where_the_shape_does_not_tell() -> None:
    logits, y = torch.randn(2, 4, 4), torch.randint(4, (2, 4))
    by_torch = -cross_entropy(logits, y, reduction="none").sum(1)
    along_axis_1 = SmoothedLikelihood(class_axis=1)
    torch.testing.assert_close(along_axis_1(logits).log_prob(y), by_torch)
    torch.testing.assert_close(SmoothedLikelihood()(logits.mT).log_prob(y), by_torch)
    assert not torch.allclose(SmoothedLikelihood()(logits).log_prob(y), by_torch)


@pytest.mark.parametrize("scale", ["learned", "predicted", 20.0])
def test_outputs_in_units_of_the_values(scale: float | str) -> None:
    centre, unit = (100.0, -3.0), (10.0, 0.5)
    outputs = torch.randn(5, 4 if scale == "predicted" else 2)
    plain = ScaledLikelihood("normal", scale)(outputs)
    inner, loc = plain.base_dist, torch.tensor(centre) + torch.tensor(unit) * outputs[:, :2]
    width = inner.scale if scale == 20.0 else torch.tensor(unit) * inner.scale
    y = torch.randn(5, 2)
    found = ScaledLikelihood("normal", scale, centre, unit)(outputs)
    torch.testing.assert_close(found.log_prob(y), torch.distributions.Normal(loc, width).log_prob(y).sum(1))
    with pytest.raises(ValueError, match="unit is"):
        ScaledLikelihood("normal", scale, unit=(0.0,))


def test_the_labels_that_count_are_counted() -> None:
    logits, mask = torch.randn(6, 5, 3), torch.arange(6) < 4
    pixels, y = mask[:, None].expand(6, 5), torch.randint(3, (6, 5))
    y[:2, 0] = -100
    ignoring = SmoothedCategorical(logits, 0.0, -100)
    normal, one_hot = dist.Normal(logits, 1.0), dist.OneHotCategorical(logits=logits[:, 0])
    cases: list[tuple[dist.TorchDistribution, Tensor, int]] = [
        (dist.Categorical(logits=logits).to_event(1), y, 30),
        (dist.Categorical(logits=logits).mask(pixels).to_event(1), y, 20),
        (dist.Categorical(logits=logits).to_event(1).mask(mask), y, 20),
        (ignoring.to_event(1), y, 28),
        (ignoring.to_event(1).mask(mask), y, 18),
        (normal.to_event(2), torch.zeros(6, 5, 3), 90),
        (one_hot, torch.eye(3)[y[:, 1]], 6),
        (one_hot.mask(mask), torch.eye(3)[y[:, 1]], 4),
        (dist.MultivariateNormal(logits[:, 0], torch.eye(3)), torch.zeros(6, 3), 6),
    ]
    for distribution, labels, count in cases:
        assert labels_counted(distribution, labels) == count
