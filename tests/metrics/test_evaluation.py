"""Evaluation against definitions by loops and scikit-learn."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, jaccard_score, log_loss, root_mean_squared_error
from torch import Tensor, nn

from bmrs_pyro.inference import Mixture, ScaledLikelihood
from bmrs_pyro.metrics import ClassEvaluation, ValueEvaluation, evaluate

N, K = 203, 4


@pytest.fixture
def example() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(N, K, generator=generator), torch.randint(0, K, (N,), generator=generator)


def batches(logits: Tensor, y: Tensor, size: int = 50) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(logits, size), torch.split(y, size), strict=True))


def calibration_error(p: Tensor, y: Tensor) -> float:
    """Compute the definition, bin by bin."""
    confidence, guess = p.max(1)
    total = 0.0
    for b in range(15):
        inside = [n for n in range(len(y)) if b / 15 <= confidence[n] < (b + 1) / 15]
        gap = sum(float(guess[n] == y[n]) - float(confidence[n]) for n in inside)
        total += abs(gap) / len(y)
    return total


@pytest.mark.parametrize("shift", [0.0, 500.0])
def test_agrees_with_the_definitions(example: tuple[Tensor, Tensor], shift: float) -> None:
    logits, y = example
    result = evaluate(nn.Identity(), batches(logits + shift, y), K)
    p = logits.double().softmax(1)
    brier = sum((float(p[n, k]) - float(y[n] == k)) ** 2 for n in range(N) for k in range(K)) / N
    assert result.count == N
    assert result.accuracy == pytest.approx(accuracy_score(y, logits.argmax(1)), rel=1e-6)
    assert result.nll == pytest.approx(log_loss(y, p, labels=range(K)), rel=1e-4 if shift else 1e-12)
    assert result.brier == pytest.approx(brier, rel=1e-4 if shift else 1e-12)
    assert result.ece == pytest.approx(calibration_error(p, y), abs=1e-4 if shift else 1e-6)


def test_batches_are_moved_to_the_network(example: tuple[Tensor, Tensor]) -> None:
    class Elsewhere(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert x.device == self.weight.device
            return torch.zeros(len(x), K)

    result = evaluate(Elsewhere(K, K, device="meta"), batches(*example), K)
    assert result.nll == pytest.approx(math.log(K))


def test_logits_inside_the_unit_interval_are_logits() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.2, 0.8]])
    p = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-0.6))
    result = evaluate(nn.Identity(), [(logits, torch.tensor([1, 1]))], 2)
    assert result.ece == pytest.approx(1 - sum(p) / 2, abs=1e-6)


def test_certainty_is_scored_without_overflow() -> None:
    logits, y = torch.tensor([[-1e4, 1e4], [-1e4, 1e4]]), torch.tensor([1, 0])
    result = evaluate(nn.Identity(), [(logits, y)], 2)
    assert (result.count, result.accuracy, result.top5, result.nll, result.brier, result.ece) == (
        *(2, 0.5, None, 1e4, 1.0, 0.5),  # there are no five classes
    )


def test_the_bins_add_up_to_the_calibration_error(example: tuple[Tensor, Tensor]) -> None:
    result = evaluate(nn.Identity(), batches(*example), K)
    filled = [b for b in result.bins if b.examples]
    assert len(result.bins) == 15
    assert sum(b.examples for b in filled) == N
    assert sum(b.examples * b.accuracy for b in filled) / N == pytest.approx(result.accuracy)
    assert sum(b.examples * abs(b.accuracy - b.confidence) for b in filled) / N == pytest.approx(
        result.ece, abs=1e-6
    )


def test_certain_examples_are_in_the_last_bin() -> None:
    p = torch.tensor([1.0] * 100 + [0.95] * 100, dtype=torch.float64)
    y = torch.tensor([1] * 10 + [0] * 190)
    result = evaluate(nn.Identity(), [(torch.stack([p, 1 - p], 1).log(), y)], 2)
    assert result.bins[-1] == pytest.approx((200, 0.975, 0.95))
    assert result.ece == pytest.approx(0.025)


def test_top_five_of_seven_classes_by_sorting() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, y = torch.randn(300, 7, generator=generator), torch.randint(0, 7, (300,), generator=generator)
    hits = [
        label in sorted(range(7), key=row.__getitem__)[-5:]
        for row, label in zip(logits.tolist(), y.tolist(), strict=True)
    ]
    assert evaluate(nn.Identity(), [(logits, y)], 7).top5 == pytest.approx(sum(hits) / 300)


def test_the_size_of_the_batches_does_not_matter(example: tuple[Tensor, Tensor]) -> None:
    one, fifty = (evaluate(nn.Identity(), batches(*example, size=size), K) for size in (1, 50))
    assert str(one) == str(fifty)  # as text, because an empty bin has NaN


def test_any_callable_runs_without_gradients(example: tuple[Tensor, Tensor]) -> None:
    weight = torch.ones(K, requires_grad=True)
    outputs = []

    def predict(x: Tensor) -> Tensor:
        outputs.append(x * weight)
        return outputs[-1]

    evaluate(predict, batches(*example), K)
    assert not any(output.requires_grad for output in outputs)


def test_modes_are_evaluation_inside_and_restored_after(example: tuple[Tensor, Tensor]) -> None:
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(K))
    net[1].eval()  # a frozen layer in a network that trains
    expected = evaluate(lambda x: net[1](x), batches(*example), K)
    assert str(evaluate(net, batches(*example), K)) == str(expected)
    assert (net.training, net[0].training, net[1].training) == (True, True, False)
    with pytest.raises(ValueError, match="shape"):
        evaluate(net, batches(*example), K + 1)
    assert net.training


def test_refuses_what_it_cannot_score(example: tuple[Tensor, Tensor]) -> None:
    logits, y = example
    with pytest.raises(ValueError, match="no batches"):
        evaluate(nn.Identity(), [], K)
    with pytest.raises(ValueError, match=r"\(50, 4\) are not 4 classes under the likelihood 'bernoulli'"):
        evaluate(lambda x: x, [(torch.zeros(50, 4), torch.zeros(50))], 4, likelihood="bernoulli")
    with pytest.raises(ValueError, match=r"logits have shape \(50, 4\); expected \(50, 7\)"):
        evaluate(nn.Identity(), batches(logits, y), 7)
    with pytest.raises(ValueError, match="outputs hold NaN"):
        evaluate(nn.Identity(), batches(logits * torch.nan, y), K)
    with pytest.raises(ValueError, match="or infinity"):
        evaluate(nn.Identity(), batches(logits.abs() * torch.inf, y), K)


def test_tokens_have_a_perplexity() -> None:
    logits, y = torch.randn(30, 6, K), torch.randint(0, K, (30, 6))
    y[:10, 4:] = -100
    result = evaluate(nn.Identity(), batches(logits, y, 7), likelihood="categorical")
    assert isinstance(result, ClassEvaluation)
    flat, p = y[y >= 0], logits.double().softmax(-1)[y >= 0]
    assert (result.count, result.labels) == (30, 160)
    assert result.accuracy == pytest.approx(accuracy_score(flat, p.argmax(-1)))
    assert result.nll == pytest.approx(log_loss(flat, p, labels=range(K)), rel=1e-12)
    assert result.perplexity == pytest.approx(math.exp(result.nll))
    assert result.ece == pytest.approx(calibration_error(p, flat), abs=1e-6)
    assert result.mean_iou is None


def test_labels_of_0_and_1_have_no_perplexity_and_no_top_5() -> None:
    result = evaluate(nn.Identity(), [(torch.randn(8, 3), torch.ones(8, 3))], likelihood="bernoulli")
    assert isinstance(result, ClassEvaluation)
    assert (result.labels, result.perplexity, result.top5) == (24, None, None)


def test_next_tokens_are_those_that_come_after() -> None:
    logits, y = torch.randn(8, 6, K), torch.randint(0, K, (8, 6))
    after = evaluate(nn.Identity(), batches(logits, y, 3), likelihood="next-token")
    shifted = evaluate(nn.Identity(), [(logits[:, :-1], y[:, 1:])], likelihood="categorical")
    assert str(after) == str(shifted)


def test_maps_have_a_mean_intersection_over_union() -> None:
    logits, y = torch.randn(6, 5, 8, 7), torch.randint(0, 3, (6, 8, 7))  # no pixel is of class 3 or 4
    logits[:, 4] = -9  # and none is taken for the last
    result = evaluate(nn.Identity(), batches(logits, y, 4), likelihood="categorical")
    assert isinstance(result, ClassEvaluation)
    expected = jaccard_score(y.flatten(), logits.argmax(1).flatten(), average="macro", labels=range(4))
    assert result.mean_iou == pytest.approx(expected)
    assert (result.labels, result.perplexity) == (6 * 8 * 7, None)


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3)])
def test_zeros_and_ones_are_two_classes(shape: tuple[int, ...]) -> None:
    logits, y = torch.randn(shape), torch.randint(0, 2, shape)
    result = evaluate(nn.Identity(), batches(logits, y, 7), likelihood="bernoulli")
    assert isinstance(result, ClassEvaluation)
    p = logits.double().sigmoid().flatten()
    assert result.accuracy == pytest.approx(accuracy_score(y.flatten(), p > 0.5))
    assert result.nll == pytest.approx(log_loss(y.flatten(), p), rel=1e-12)
    assert result.brier == pytest.approx(2 * brier_score_loss(y.flatten(), p), rel=1e-12)


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3), (40, 2, 3)])
def test_values_have_error_and_likelihood(shape: tuple[int, ...]) -> None:
    loc, y = torch.randn(shape), torch.randn(shape)
    result = evaluate(nn.Identity(), batches(loc, y, 7), likelihood="normal:0.5")
    log_p = torch.distributions.Normal(loc.double(), 0.5).log_prob(y).reshape(40, -1).sum(1)
    assert isinstance(result, ValueEvaluation)
    assert (result.count, result.values) == (40, y.numel())
    assert result.rmse == pytest.approx(root_mean_squared_error(y.flatten(), loc.flatten()), rel=1e-6)
    assert result.nll == pytest.approx(-log_p.mean().item(), rel=1e-6)


def test_any_distribution_is_scored() -> None:
    x, y = torch.randn(40, 3), torch.randn(40, 3)
    covariance = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 2.0]])
    result = evaluate(lambda x: dist.MultivariateNormal(x, covariance), batches(x, y, 7), likelihood="normal")
    assert result.nll == pytest.approx(
        -dist.MultivariateNormal(x, covariance).log_prob(y).mean().item(), rel=1e-5
    )
    one_hot = torch.nn.functional.one_hot(y.argmax(1)).float()
    result = evaluate(lambda x: dist.OneHotCategorical(logits=x), [(x, one_hot)], likelihood="categorical")
    assert str(result) == str(evaluate(lambda x: dist.Categorical(logits=x), [(x, y.argmax(1))], 3))


def test_a_mixture_is_torch_s_mixture() -> None:
    torch.manual_seed(0)
    loc, y = torch.randn(5, 4, 3), torch.randn(4, 3)
    ours = Mixture([dist.Normal(one, 0.5).to_event(1) for one in loc])
    parts = torch.distributions.Independent(torch.distributions.Normal(loc.transpose(0, 1), 0.5), 1)
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(4, 5)), parts)
    torch.testing.assert_close(ours.log_prob(y), theirs.log_prob(y))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)
    draws = ours.sample((20_000,))
    assert ((draws.mean(0) - ours.mean).abs() < 4 * (ours.variance / 20_000).sqrt()).all()
    torch.testing.assert_close(draws.var(0), ours.variance, rtol=0.1, atol=0)


def test_a_name_does_not_know_a_scale_that_was_learned() -> None:
    with pytest.raises(ValueError, match=r"'normal' is learned.*likelihood=model\.likelihood"):
        evaluate(nn.Identity(), [(torch.ones(3), torch.ones(3))], likelihood="normal")
    result = evaluate(nn.Identity(), [(torch.ones(3), torch.ones(3))], likelihood=ScaledLikelihood())
    assert result.nll == pytest.approx(0.5 * math.log(2 * math.pi))


def test_labels_that_the_outputs_do_not_have_are_refused() -> None:
    with pytest.raises(
        ValueError, match="labels reach from 0 to 9, but the likelihood has the classes 0 to 4"
    ):
        evaluate(nn.Identity(), [(torch.zeros(10, 5), torch.arange(10))], likelihood="categorical")
    with pytest.raises(ValueError, match="none of the labels counts"):
        evaluate(nn.Identity(), [(torch.zeros(2, 3, 5), torch.full((2, 3), -100))], likelihood="categorical")
    with pytest.raises(ValueError, match=r"y has shape \(2,\), .* shape \(2, 3\)"):
        evaluate(nn.Identity(), [(torch.zeros(2, 3, 5), torch.zeros(2))], likelihood="categorical")
    with pytest.raises(ValueError, match=r"y has shape \(2, 3\), .* shape \(2,\)"):
        evaluate(nn.Identity(), [(torch.zeros(2, 3), torch.zeros(2, 3).long())], 3)


def test_values_are_not_taken_for_classes() -> None:
    loader = [(torch.zeros(4, 2), torch.tensor([0.5, -1.0, 2.0, 0.0]))]
    with pytest.raises(ValueError, match=r"no whole numbers.*name a likelihood"):
        evaluate(nn.Linear(2, 3), loader, 3)


class Drops(nn.Module):
    """A likelihood that sees batch statistics, and drops values, in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(2), nn.Dropout(0.5)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.drop(self.norm(z)), 1.0).to_event(1)


def test_a_likelihood_evaluates_in_evaluation_mode_too() -> None:
    likelihood, x = Drops(), 5 + torch.randn(40, 2)
    found = evaluate(nn.Identity(), [(x, x)], likelihood=likelihood)
    assert likelihood.training
    assert not likelihood.norm.num_batches_tracked
    assert found.nll == pytest.approx(-dist.Normal(x, 1.0).log_prob(x).sum(1).mean().item(), rel=1e-4)
