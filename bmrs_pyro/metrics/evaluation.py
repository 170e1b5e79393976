"""How well a classifier predicts labelled data, and how far its probabilities can be trusted."""

from __future__ import annotations

__all__ = ["Bin", "Evaluation", "evaluate", "evaluation_mode"]

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss, one_hot, pad
from torchmetrics.functional.classification import multiclass_accuracy

from bmrs_pyro.inference.inputs import on_device_of
from bmrs_pyro.network.untouched import modes_kept

_BINS = 15


class Bin(NamedTuple):
    """Examples whose highest probability lies in one of 15 equal intervals; a point of a reliability diagram."""

    examples: int
    """How many they are."""
    confidence: float
    """Their mean highest probability; NaN without examples."""
    accuracy: float
    """Share of them whose most probable class is right; NaN without examples."""


@dataclass(frozen=True)
class Evaluation:
    """Quality of predicted class probabilities p on N examples with labels y.

    Attributes:
        count: N.
        accuracy: share of examples whose most probable class is y.
        top5: share of examples with y among the five most probable classes; 1 where there are no more.
        nll: mean of −log p_y, in nats.
        brier: mean of Σ_k (p_k − [k = y])², between 0 and 2 (Brier 1950).
        ece: expected calibration error, Σ_b (n_b / N) |accuracy_b − confidence_b| over 15 equal bins of the
            highest probability (Guo et al. 2017, eq. 3).
        bins: these bins, from 0 to 1.
    """

    count: int
    accuracy: float
    top5: float
    nll: float
    brier: float
    ece: float
    bins: tuple[Bin, ...]


def evaluate(
    predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], num_classes: int
) -> Evaluation:
    """Evaluate a classifier without gradients; a module is put into evaluation mode for the time it takes.

    Args:
        predict: maps inputs ``(B, …)`` to logits ``(B, K)``.
        batches: pairs of inputs and int64 labels ``(B,)``; a module's inputs are moved to its device.
        num_classes: K.

    Raises:
        ValueError: there are no examples, or the logits have another shape or hold NaN or infinity.
    """
    with evaluation_mode(predict):
        parts = [
            (_log_probabilities(predict(x), num_classes, len(y)), y.cpu())
            for x, y in on_device_of(predict, batches)
        ]
    if not parts:
        raise ValueError("there are no batches to evaluate on")
    log_p, y = (torch.cat(part) for part in zip(*parts, strict=True))
    # as probabilities, not logits: torchmetrics takes logits that happen to lie in [0, 1] for probabilities
    p = log_p.exp()
    if num_classes == 1:  # which torchmetrics takes for a mistake
        num_classes, p = 2, pad(p, (0, 1))
    bins = _bins(p, y)
    return Evaluation(
        count=len(y),
        accuracy=multiclass_accuracy(p, y, num_classes, average="micro").item(),
        top5=multiclass_accuracy(p, y, num_classes, average="micro", top_k=min(5, num_classes)).item(),
        nll=nll_loss(log_p, y).item(),
        brier=(p - one_hot(y, num_classes)).square().sum(1).mean().item(),
        # not torchmetrics', which has a 16th bin for a highest probability of exactly 1
        ece=math.fsum(b.examples * abs(b.accuracy - b.confidence) for b in bins if b.examples) / len(y),
        bins=bins,
    )


@contextmanager
def evaluation_mode(predict: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Switch gradients off and a module to evaluation mode, and both back afterwards."""
    net = predict if isinstance(predict, nn.Module) else None
    with torch.no_grad(), modes_kept(net) if net else nullcontext():
        if net:
            net.eval()
        yield


def _bins(p: Tensor, y: Tensor) -> tuple[Bin, ...]:
    confidence, guess = p.max(1)
    place = (confidence * _BINS).long().clamp(max=_BINS - 1)

    def total(values: Tensor) -> Tensor:
        return torch.zeros(_BINS, dtype=torch.float64).index_add(0, place, values.double())

    count = total(torch.ones_like(confidence))
    shares = (count, total(confidence) / count, total(guess == y) / count)
    return tuple(Bin(int(n), c, a) for n, c, a in zip(*(s.tolist() for s in shares), strict=True))


def _log_probabilities(logits: Tensor, num_classes: int, count: int) -> Tensor:
    if logits.shape != (count, num_classes):
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected {(count, num_classes)}")
    log_p = logits.double().log_softmax(1).cpu()
    if log_p.isnan().any():  # of an infinite logit too, unless it only rules a class out
        raise ValueError("logits hold NaN or infinity; the network's weights or inputs are not finite")
    return log_p
