"""The categorical distribution with smoothed labels."""

from __future__ import annotations

__all__ = ["SmoothedCategorical"]


import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import lazy_property
from torch.nn.functional import cross_entropy

# by default cross_entropy ignores the label -100; this number, which no label has, makes it ignore none
_NO_LABEL = torch.iinfo(torch.int64).min


class _Labels(constraints.Constraint):
    """Labels of K classes, and the label that is not scored."""

    is_discrete = True

    def __init__(self, classes: int, ignored: int) -> None:
        self.classes, self.ignored = classes, ignored

    def check(self, value: Tensor) -> Tensor:
        return (value == self.ignored) | ((value % 1 == 0) & (value >= 0) & (value < self.classes))


class SmoothedCategorical(dist.Categorical):
    """Label smoothing: log p(y) counts as (1 − ε) log p_y + ε/K Σ_k log p_k.

    This is the expected log-likelihood of a label that is replaced, with probability ε, by a class drawn uniformly from
    all K. A training step needs only ``log_prob``, so normalised ``logits`` are computed when they are first read.

    Args:
        logits: ``(*batch, K)``.
        smoothing: ε in [0, 1).
        ignored: a label that is not scored; None for none.

    Reference: Szegedy et al., CVPR 2016, section 7.
    """

    def __init__(self, logits: Tensor, smoothing: float, ignored: int | None = None) -> None:
        self._param = logits
        self._num_events = logits.shape[-1]
        self.smoothing, self.ignored = smoothing, ignored
        # not Categorical.__init__, which normalises the logits
        TorchDistribution.__init__(self, logits.shape[:-1])

    @lazy_property
    def logits(self) -> Tensor:
        """Log-probabilities ``(*batch, K)``."""
        return self._param.log_softmax(-1)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The classes, and the label that is not scored."""
        return (
            constraints.integer_interval(0, self._num_events - 1)
            if self.ignored is None
            else _Labels(self._num_events, self.ignored)
        )

    def expand(
        self,
        batch_shape: torch.Size | list[int] | tuple[int, ...],
        _instance: SmoothedCategorical | None = None,
    ) -> SmoothedCategorical:
        """Return the distribution of labels in a larger batch shape."""
        return SmoothedCategorical(
            self._param.expand(*batch_shape, self._num_events), self.smoothing, self.ignored
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the smoothed log-likelihood of labels."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        logits = self._param.expand(*shape, self._num_events).reshape(-1, self._num_events)
        labels = value.expand(shape).reshape(-1).long()
        ignored = _NO_LABEL if self.ignored is None else self.ignored
        losses = cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.smoothing, ignore_index=ignored
        )
        return -losses.view(shape)
