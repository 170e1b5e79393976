"""One batch scored through its likelihood, label by label or example by example."""

from __future__ import annotations

__all__ = ["BatchScores", "Predictor", "predicted", "score_batch"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from bmrs_pyro.inference import Outcome, as_likelihood, as_logits, observed
from bmrs_pyro.inference.initial_values import initial_values_told
from bmrs_pyro.inference.inputs import gaps, is_finite
from bmrs_pyro.inference.likelihoods import Likelihood, given
from bmrs_pyro.inference.observations import log_likelihoods, other_shape
from bmrs_pyro.network.nested import map_leaves, tensors_in


class BatchScores(NamedTuple):
    """Scores of one batch, on the CPU; sums over them do not depend on the batches' sizes.

    Attributes:
        examples: number of examples.
        num_classes: K; None for values.
        event_dims: how many dimensions of the labels belong to one example.
        columns: for classes, per label that counts: y, the most probable class, its probability, whether y is among
            the five most probable, −log p_y, Σ_k (p_k − [k = y])². For values: −log p(y | x) per example, and
            (y − E[y | x])² per value that counts, empty if the distribution has no mean.
    """

    examples: int
    num_classes: int | None
    event_dims: int
    columns: tuple[Tensor, ...]


@dataclass(frozen=True)
class Predictor:
    """A function from inputs to predictions that applies a likelihood itself, so that no other one may follow.

    Attributes:
        distribution: maps inputs to the distribution of their labels or values.
    """

    distribution: Callable[[Any], dist.TorchDistribution]

    def __call__(self, x: Any) -> Any:
        """Return log-probabilities ``(B, K)`` if every example has one class, else the distribution."""
        return as_logits(self.distribution(x))


def predicted(outputs: Any, likelihood: str | Likelihood) -> dist.TorchDistribution:
    """Return the distribution of a batch given the outputs, in float64 if the likelihood is given by name.

    Raises:
        ValueError: the outputs hold NaN or infinity, or the named likelihood has a scale that is learned.
    """
    if isinstance(outputs, Distribution):
        return cast(dist.TorchDistribution, outputs)
    for tensor in tensors_in(outputs):
        # −inf is allowed: as a logit it excludes a class
        if tensor.is_floating_point() and not (tensor < torch.inf).all():
            raise ValueError(
                "the outputs hold NaN or infinity; the network's weights or inputs are not finite"
            )
    if not isinstance(likelihood, str):
        with initial_values_told("likelihood"):
            return given(likelihood, outputs)
    named = as_likelihood(likelihood)
    if isinstance(named, nn.Module) and any(True for _ in named.parameters()):
        raise ValueError(
            f"the scale of {likelihood!r} is learned, and the name does not hold it: give the trained likelihood, "
            f"likelihood=model.likelihood, or a number, likelihood='{likelihood.partition(':')[0]}:1.0'"
        )
    return named(map_leaves(_double, outputs))


def score_batch(
    outputs: Any, y: Tensor, likelihood: str | Likelihood, num_classes: int | None = None
) -> BatchScores:
    """Score labels or values.

    Args:
        outputs: the network's, or a distribution.
        y: labels or values ``(B, …)``.
        likelihood: distribution of y given the outputs.
        num_classes: K; None takes K from the outputs.

    Raises:
        ValueError: outputs and labels do not fit, or the outputs are not finite.
    """
    distribution = predicted(outputs, likelihood)
    outcome = Outcome.of(distribution)
    if num_classes is not None and (outcome.log_p is None or outcome.log_p.shape[-1] != num_classes):
        shape = outputs.shape if isinstance(outputs, Tensor) else distribution.batch_shape
        if tuple(shape) == (len(y), num_classes):
            raise ValueError(
                f"logits of shape {tuple(shape)} are not {num_classes} classes under the likelihood "
                f"{likelihood if isinstance(likelihood, str) else type(distribution).__name__!r}; leave num_classes "
                "out, or name another likelihood"
            )
        raise ValueError(f"logits have shape {tuple(shape)}; expected {(len(y), num_classes)}")
    read = outcome.mean if outcome.log_p is None else outcome.log_p
    y = observed(distribution, y if read is None else y.to(read.device))
    if outcome.log_p is not None:
        if y.shape != distribution.batch_shape + distribution.event_shape:
            raise other_shape(distribution, y)
        if not is_finite(y):
            raise ValueError(gaps("labels"))
        if y.is_floating_point() and not (y == y.round()).all():
            raise ValueError(
                "the labels are no whole numbers, but the likelihood is for classes: name a likelihood for values, "
                "such as likelihood='normal:1.0'"
            )
        columns = _of_labels(outcome, outcome.log_p.double(), y)
        return BatchScores(len(y), outcome.log_p.shape[-1], outcome.event_dims, columns)
    nll = -log_likelihoods(distribution, y).double().reshape(len(y), -1).sum(1)
    squares = nll[:0]
    if outcome.mean is not None and outcome.mean.shape == y.shape:
        squares = (y - outcome.mean)[outcome.counted(y)].double().square()
    return BatchScores(len(y), None, outcome.event_dims, (nll.cpu(), squares.cpu()))


def _of_labels(outcome: Outcome, log_p: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    y = outcome.labels(y)
    counted = outcome.counted(y)
    y, log_p = y[counted], log_p[counted]
    classes = log_p.shape[-1]
    if len(y) and (y.min() < 0 or y.max() >= classes):
        raise ValueError(
            f"the labels reach from {y.min()} to {y.max()}, but the likelihood has the classes 0 to {classes - 1}"
        )
    if log_p.isnan().any():  # all logits −∞
        raise ValueError("the outputs hold NaN or infinity; the network's weights or inputs are not finite")
    p, label = log_p.exp(), y.unsqueeze(1)
    confidence, guess = p.max(1)
    in_top5 = (log_p.topk(min(5, classes)).indices == label).any(1)
    brier = p.scatter_add(1, label, -torch.ones_like(label, dtype=p.dtype)).square().sum(1)
    columns = y, guess, confidence, in_top5, -log_p.gather(1, label).squeeze(1), brier
    return tuple(column.cpu() for column in columns)


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
