"""Evaluation against definitions by loops and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn

from bmrs_pyro.metrics.evaluation import evaluate

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
        *(2, 0.5, 1.0, 1e4, 1.0, 0.5),
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
    with pytest.raises(ValueError, match=r"logits have shape \(50, 4\); expected \(50, 7\)"):
        evaluate(nn.Identity(), batches(logits, y), 7)
    with pytest.raises(ValueError, match="logits hold NaN"):
        evaluate(nn.Identity(), batches(logits * torch.nan, y), K)
    with pytest.raises(ValueError, match="or infinity"):
        evaluate(nn.Identity(), batches(logits.abs() * torch.inf, y), K)
