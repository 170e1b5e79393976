"""How well a network predicts held-out data, and how far its probabilities can be trusted."""

from __future__ import annotations

__all__ = ["Bin", "ClassEvaluation", "Evaluation", "ValueEvaluation", "evaluate", "evaluation_mode"]

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from bmrs_pyro.inference.inputs import labelled, not_running, on_device_of, outputs_of, refuse_meta
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.inference.observations import validated
from bmrs_pyro.metrics.scoring import Predictor, score_batch
from bmrs_pyro.network.nested import tensors_in
from bmrs_pyro.network.untouched import modes_kept

_BINS = 15


class Bin(NamedTuple):
    """Examples whose highest probability lies in one of 15 equal intervals; a point of a reliability diagram."""

    examples: int
    """Number of examples."""
    confidence: float
    """Their mean highest probability; NaN without examples."""
    accuracy: float
    """Share of them whose most probable class is right; NaN without examples."""


@dataclass(frozen=True)
class ClassEvaluation:
    """Quality of predicted class probabilities p on N examples with labels y, one or several per example.

    Attributes:
        count: N.
        labels: how many labels count; N where every example has one.
        accuracy: share of labels y that are the most probable class.
        top5: share of labels y among the five most probable classes; None with five classes or fewer.
        nll: mean of −log p_y, in nats per label.
        brier: mean of Σ_k (p_k − [k = y])², between 0 and 2 (Brier 1950).
        ece: expected calibration error, Σ_b (n_b / N) |accuracy_b − confidence_b| over 15 equal bins of the
            highest probability (Guo et al. 2017, eq. 3).
        perplexity: exp(nll) for sequences of labels of more than two classes, otherwise None.
        mean_iou: intersection over union for maps of labels, averaged over the classes that are predicted or true
            somewhere; otherwise None.
        bins: the bins of ``ece``, from 0 to 1.
    """

    count: int
    labels: int
    accuracy: float
    top5: float | None
    nll: float
    brier: float
    ece: float
    perplexity: float | None
    mean_iou: float | None
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class ValueEvaluation:
    """Quality of predicted distributions of values or counts y on N examples.

    Attributes:
        count: N.
        values: how many values count; N where every example has one.
        rmse: root mean square of y − E[y | x], in units of y; None where the distribution has no mean.
        nll: mean of −log p(y | x), in nats per example.
    """

    count: int
    values: int
    rmse: float | None
    nll: float


Evaluation = ClassEvaluation | ValueEvaluation


@overload
def evaluate(predict: Callable[[Any], Any], batches: Iterable[Any], num_classes: int) -> ClassEvaluation: ...
@overload
def evaluate(
    predict: Callable[[Any], Any],
    batches: Iterable[Any],
    num_classes: int | None = None,
    *,
    likelihood: str | Likelihood,
) -> Evaluation: ...
@validated()
def evaluate(
    predict: Callable[[Any], Any],
    batches: Iterable[Any],
    num_classes: int | None = None,
    *,
    likelihood: str | Likelihood = "categorical",
) -> Evaluation:
    """Evaluate a network without gradients.

    A network or likelihood that is a module runs in evaluation mode and gets its own mode back.

    Args:
        predict: maps inputs ``(B, …)`` to the likelihood's inputs, such as logits ``(B, K)``, or to a distribution.
        batches: pairs of inputs and labels or values ``(B, …)``, or dicts of inputs and ``"labels"``. A module gets
            a tuple as several inputs and a dict as named inputs, moved to its device.
        num_classes: K, checked against the outputs; None takes K from them.
        likelihood: distribution of y given the outputs, a name or function: :func:`bmrs_pyro.inference.as_likelihood`.

    Returns:
        a :class:`ClassEvaluation` for class and binary labels, otherwise a :class:`ValueEvaluation`.

    Raises:
        ValueError: there are no examples, or the outputs have another shape or hold NaN or infinity.
    """
    outputs = predict.distribution if isinstance(predict, Predictor) else predict
    with evaluation_mode(predict, likelihood):
        parts = [
            score_batch(_outputs(outputs, x), y, likelihood, num_classes)
            for x, y in on_device_of(predict, labelled("data", batches))
        ]
    if not parts:
        raise ValueError("there are no batches to evaluate on")
    first = parts[0]
    if any(
        (part.num_classes, len(part.columns)) != (first.num_classes, len(first.columns)) for part in parts
    ):
        raise ValueError("the likelihood gives different classes, or none, for some of the batches")
    count = sum(part.examples for part in parts)
    columns = [torch.cat(column) for column in zip(*(part.columns for part in parts), strict=True)]
    if first.num_classes is None:
        nll, squares = columns
        rmse = squares.mean().sqrt().item() if len(squares) else None
        return ValueEvaluation(count, len(squares), rmse, nll.mean().item())
    return _of_classes(count, first.num_classes, first.event_dims, columns)


def _outputs(predict: Callable[[Any], Any], x: Any) -> Any:
    try:
        outputs = outputs_of(predict, x)
    except RuntimeError as error:
        raise not_running(x, error) from error
    if isinstance(predict, nn.Module) and any(tensor.is_meta for tensor in tensors_in(outputs)):
        refuse_meta("the network", predict)
    return outputs


@contextmanager
def evaluation_mode(*parts: object) -> Iterator[None]:
    """Disable gradients and put those of the parts that are modules into evaluation mode; restore both afterwards."""
    modules = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
    with torch.no_grad(), modes_kept(modules):
        modules.eval()
        yield


def _of_classes(count: int, num_classes: int, event_dims: int, columns: list[Tensor]) -> ClassEvaluation:
    y, guess, confidence, in_top5, nll, brier = columns
    if not len(y):
        raise ValueError("none of the labels counts: all are masked or ignored")
    bins = _bins(confidence, guess == y)
    mean_nll = nll.mean().item()
    return ClassEvaluation(
        count=count,
        labels=len(y),
        accuracy=_share(guess == y),
        top5=_share(in_top5) if num_classes > 5 else None,
        nll=mean_nll,
        brier=brier.mean().item(),
        ece=math.fsum(b.examples * abs(b.accuracy - b.confidence) for b in bins if b.examples) / len(y),
        perplexity=math.exp(min(mean_nll, 709.0)) if event_dims == 1 and num_classes > 2 else None,
        mean_iou=_mean_iou(y, guess, num_classes) if event_dims > 1 else None,
        bins=bins,
    )


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)


def _mean_iou(y: Tensor, guess: Tensor, num_classes: int) -> float:
    true, guessed, both = (torch.bincount(one, minlength=num_classes) for one in (y, guess, y[guess == y]))
    union = true + guessed - both
    return (both / union)[union > 0].double().mean().item()


def _bins(confidence: Tensor, hits: Tensor) -> tuple[Bin, ...]:
    # a highest probability of exactly 1 is in the last bin
    place = (confidence * _BINS).long().clamp(max=_BINS - 1)

    def total(values: Tensor) -> Tensor:
        return torch.zeros(_BINS, dtype=torch.float64).index_add(0, place, values.double())

    count = total(torch.ones_like(confidence))
    shares = (count, total(confidence) / count, total(hits) / count)
    return tuple(Bin(int(n), c, a) for n, c, a in zip(*(s.tolist() for s in shares), strict=True))
