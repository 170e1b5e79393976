"""The class probabilities or the mean of a likelihood's distribution, and mixtures of such distributions."""

from __future__ import annotations

__all__ = ["Mixture", "Outcome", "as_logits", "class_log_probabilities", "labels_counted", "mixture"]

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.nn.functional import logsigmoid

from bmrs_pyro.distributions import unwrapped
from bmrs_pyro.inference.smoothed_categorical import SmoothedCategorical


@dataclass(frozen=True)
class Outcome:
    """A distribution of a batch's labels or values, without its wrappers.

    Attributes:
        log_p: normalised log-probabilities of classes, ``(batch, …, K)``, two for a Bernoulli; None if the
            outcomes are not classes.
        mean: E[y], ``(batch, …)``; None for classes, and if the distribution has no mean.
        mask: which labels or values count; None for all.
        ignored: label that does not count; None for none.
        event_dims: how many dimensions of the labels belong to one example.
        one_hot: whether y is one-hot instead of the number of the class.
    """

    log_p: Tensor | None
    mean: Tensor | None
    mask: Tensor | None
    ignored: int | None
    event_dims: int
    one_hot: bool = False

    @classmethod
    def of(cls, distribution: td.Distribution) -> Outcome:
        """Read a distribution, which may be wrapped by ``to_event``, ``expand`` and ``mask``."""
        outer = distribution.components[0] if isinstance(distribution, Mixture) else distribution
        base, shape, event_dims, mask = unwrapped(outer)
        mask = mask if mask is None else mask.expand(shape)
        if isinstance(base, td.Categorical | td.OneHotCategorical):
            log_p = base.logits.log_softmax(-1)
        elif isinstance(base, td.Bernoulli):
            log_p = torch.stack([logsigmoid(-base.logits), logsigmoid(base.logits)], -1)
        else:
            return cls(None, _mean(distribution), mask, None, event_dims)
        one_hot = isinstance(base, td.OneHotCategorical)
        log_p = log_p.expand(*shape, log_p.shape[-1])
        return cls(log_p, None, mask, getattr(base, "ignored", None), event_dims, one_hot)

    def labels(self, y: Tensor) -> Tensor:
        """Return labels as numbers of classes, ``(batch, …)``."""
        return (y.argmax(-1) if self.one_hot else y).long()

    def counted(self, y: Tensor) -> Tensor:
        """Return a mask of the labels or values that count, in their shape."""
        counted = torch.ones_like(y, dtype=torch.bool)
        if self.mask is not None:
            # a multivariate value counts as a whole
            counted &= self.mask.to(y.device).reshape(self.mask.shape + (1,) * (y.dim() - self.mask.dim()))
        return counted if self.ignored is None else counted & (y != self.ignored)


class Mixture(dist.TorchDistribution):
    """The mixture of S equally likely distributions of one shape; all values of an example share a component.

    Args:
        components: the distributions, such as the likelihood's under S draws of the gains.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, components: Sequence[dist.TorchDistribution]) -> None:
        self.components = tuple(components)
        super().__init__(components[0].batch_shape, components[0].event_shape, validate_args=False)

    @property
    def support(self) -> Constraint | None:
        """The support of the first component."""
        return self.components[0].support

    @property
    def mean(self) -> Tensor:
        """E[y]."""
        return torch.stack([part.mean for part in self.components]).mean(0)

    @property
    def expected_variance(self) -> Tensor:
        """The mean of the components' variances: the noise that remains if the component is known."""
        return torch.stack([part.variance for part in self.components]).mean(0)

    @property
    def variance(self) -> Tensor:
        """Var[y]: the expected variance plus the variance of the components' means."""
        means = torch.stack([part.mean for part in self.components])
        return self.expected_variance + means.var(0, correction=0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log (1/S) Σ_s p_s(value)."""
        parts = torch.stack([part.log_prob(value) for part in self.components])
        return parts.logsumexp(0) - math.log(len(self.components))

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw values; every example draws its own component."""
        draws = torch.stack([part.sample(torch.Size(sample_shape)) for part in self.components])
        events = (1,) * len(self.event_shape)
        chosen = torch.randint(len(self.components), (*sample_shape, *self.batch_shape), device=draws.device)
        index = chosen.reshape(1, *chosen.shape, *events).expand(1, *draws.shape[1:])
        return draws.gather(0, index).squeeze(0)


def mixture(distributions: Iterable[dist.TorchDistribution]) -> dist.TorchDistribution:
    """Return the mixture of S equally likely distributions; of classes, a categorical with their mean probabilities.

    Args:
        distributions: at least one, all of one kind and shape; only one at a time is in memory if they are classes.
    """
    found = iter(distributions)
    first = next(found)
    outcome = Outcome.of(first)
    if outcome.log_p is None:
        return Mixture([first, *found])
    log_p, count = outcome.log_p, 1
    for one in found:
        log_p, count = torch.logaddexp(log_p, class_log_probabilities(one)), count + 1
    log_p = log_p - math.log(count)
    if outcome.one_hot:
        merged = dist.OneHotCategorical(logits=log_p)
    else:
        merged = SmoothedCategorical(log_p, 0.0, outcome.ignored)
    merged = merged if outcome.mask is None else merged.mask(outcome.mask)
    return merged.to_event(outcome.event_dims)


def labels_counted(distribution: td.Distribution, y: Tensor) -> int:
    """Return how many labels or values of a batch count, without those that are masked or ignored."""
    base, shape, _, mask = unwrapped(distribution)
    ignored = getattr(base, "ignored", None)
    if ignored is not None:
        counted = y.reshape(shape) != ignored
        return int((counted if mask is None else counted & mask).sum())
    return shape.numel() if mask is None else int(mask.expand(shape).sum())


def as_logits(distribution: td.Distribution) -> Tensor | td.Distribution:
    """Return log-probabilities ``(batch, K)`` if every example has one class, else the distribution."""
    if isinstance(distribution, td.Categorical) and len(distribution.batch_shape) == 1:
        return distribution.logits
    return distribution


def class_log_probabilities(distribution: td.Distribution) -> Tensor:
    """Return log p of the classes, ``(batch, …, K)``.

    Raises:
        ValueError: the distribution is not of classes.
    """
    log_p = Outcome.of(distribution).log_p
    if log_p is None:
        raise ValueError(
            f"a {type(distribution).__name__} is not a distribution of classes, but those before it were"
        )
    return log_p


def _mean(distribution: td.Distribution) -> Tensor | None:
    try:
        mean = distribution.mean
    except NotImplementedError:
        return None
    return None if mean.isnan().all() else mean
