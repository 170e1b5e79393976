"""The base class of distributions of a gain on an interval: exact bounds, support and expansion."""

from __future__ import annotations

__all__ = ["PRIOR_HIGH", "PRIOR_LOW", "IntervalDistribution", "Shape", "as_floating"]

import math
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

PRIOR_LOW = math.exp(-20.0)
"""Lower bound of the library's default prior on a gain θ."""

PRIOR_HIGH = 1.0
"""Upper bound of the library's default prior on a gain θ."""

Shape = torch.Size | list[int] | tuple[int, ...]


class IntervalDistribution(TorchDistribution):
    """A distribution of θ on [low, high], 0 < low < high.

    The bounds are constants, kept in float64: float32 moves log low by up to 1e-6, the width of a spike.
    Bounds and parameters keep their given shape and only results are expanded, so that
    `q.expand([64, C])` costs no more than q.

    Args:
        low: Lower bound in θ.
        high: Upper bound in θ.
        shape: Shape of the parameters; the batch shape is this, broadcast with the bounds.
        dtype: Dtype of draws and moments.
        device: Device of the bounds; None leaves them where they are.
        validate_args: Whether arguments and values are checked; Pyro's setting if None.

    Raises:
        ValueError: `low` is not positive or not below `high`, or `high` is infinite.
    """

    has_rsample = True

    def __init__(
        self,
        low: Tensor | float,
        high: Tensor | float,
        *,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device | None,
        validate_args: bool | None,
    ) -> None:
        self.low = torch.as_tensor(low, dtype=torch.float64, device=device).detach()
        self.high = torch.as_tensor(high, dtype=torch.float64, device=device).detach()
        self.log_low, self.log_high = self.low.log(), self.high.log()
        self.dtype, self._device = dtype, self.low.device
        # torch.broadcast_shapes takes longer than the rest of this method; usually one interval serves all
        scalar = self.low.dim() == self.high.dim() == 0
        batch_shape = shape if scalar else torch.broadcast_shapes(shape, self.low.shape, self.high.shape)
        if (self._validate_args if validate_args is None else validate_args) and not (self.low > 0).all():
            raise ValueError(f"low is {self.low}; it is a bound of θ, not of log θ, so it must be above 0")
        super().__init__(batch_shape, validate_args=validate_args)
        if self._validate_args and not (self.low < self.high).all():
            raise ValueError(f"low must lie below high, got low={self.low} and high={self.high}")
        if self._validate_args and not self.high.isfinite().all():
            raise ValueError(f"high must be finite, got high={self.high}")

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """[low, high], rounded as the draws are."""
        return constraints.interval(self.low.to(self.dtype), self.high.to(self.dtype))

    def contains(self, other: IntervalDistribution) -> Tensor:
        """Whether this interval contains the other distribution's, up to float32 rounding of the bounds."""
        slack = 1e-6
        return (self.log_low - slack <= other.log_low) & (other.log_high <= self.log_high + slack)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Self:
        """The same distribution over a larger batch, of the same type, so that its KL stays exact."""
        new = self._get_checked_instance(type(self), _instance)
        new.__dict__.update(self.__dict__)
        # a shape that does not broadcast raises here, as it would for a tensor
        shape = torch.empty(self.batch_shape, device="meta").expand(batch_shape).shape
        super(IntervalDistribution, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        parts = {name: getattr(self, name) for name in self.arg_constraints}
        shown = (
            f"{name}: {part.item() if part.numel() == 1 else part.size()}" for name, part in parts.items()
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def signal_to_noise(self) -> Tensor:
        """E[θ] / std[θ]."""
        return self.mean / self.stddev

    def _near(self, value: Tensor) -> Tensor:
        """Move a tensor without dimensions to the parameters' device, as torch does; others must be there already."""
        return value if value.dim() else value.to(self._device)

    def _per_batch(self, statistic: Tensor) -> Tensor:
        """Give a float64 statistic of the unexpanded parameters the batch shape and the user's dtype."""
        return statistic.to(self.dtype).expand(self.batch_shape)

    def _rounded(self, result: Tensor, value: Tensor) -> Tensor:
        """Give a float64 result the batch shape and the wider dtype of the distribution and the value."""
        result = result.to(torch.promote_types(self.dtype, value.dtype))
        # the parameters may lack dimensions of the batch; the values, as a rule, do not
        if result.shape[result.dim() - len(self.batch_shape) :] == self.batch_shape:
            return result
        return result.expand(torch.broadcast_shapes(result.shape, self.batch_shape))


def as_floating(*numbers: Tensor | float) -> tuple[Tensor, ...]:
    """Return numbers as tensors of one shape and dtype; integers become floating-point numbers of the default dtype."""
    default = torch.get_default_dtype()
    # before broadcasting: beside an integer tensor, torch would round a scale of 0.5 to 0
    tensors: tuple[Tensor, ...] = broadcast_all(
        *(n.to(default) if isinstance(n, Tensor) and not n.is_floating_point() else n for n in numbers)
    )
    return tensors
