"""One draw and one KL for all structure families, with a visible Pyro site for each of them."""

from __future__ import annotations

__all__ = ["FamilyPrior", "PackedSite", "pack"]

from functools import cached_property
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal

Shape = torch.Size | list[int] | tuple[int, ...]


class _Pack:
    """The joint posterior of all families and what was computed from it in this step."""

    def __init__(self, posterior: TruncatedLogNormal, sizes: tuple[int, ...], draws: torch.Size) -> None:
        self.posterior = posterior
        self.sizes = sizes
        self.draws = draws
        self._divergence: tuple[LogUniform, tuple[Tensor, ...]] | None = None

    @cached_property
    def values(self) -> tuple[Tensor, ...]:
        """The draw of each family, ``(*draws, C_f)``."""
        return self.posterior.rsample(self.draws).split(self.sizes, -1)

    def divergence(self, prior: LogUniform) -> tuple[Tensor, ...]:
        """KL to one prior shared by all families, ``(C_f,)`` each; computed once a step."""
        if self._divergence is None or self._divergence[0] is not prior:
            self._divergence = (prior, kl_divergence(self.posterior, prior).split(self.sizes))
        return self._divergence[1]


class PackedSite(dist.TorchDistribution):
    """One family's posterior as a view into the joint one.

    Equal in distribution to ``posterior.expand([*draws, C]).to_event(1)``; only the arithmetic is shared:
    a step costs one draw and one KL, however many families there are.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, pack: _Pack, index: int) -> None:
        self.pack = pack
        self.index = index
        super().__init__(pack.draws, torch.Size((pack.sizes[index],)), validate_args=False)

    @property
    def posterior(self) -> TruncatedLogNormal:
        """The family's posterior with batch shape ``(C,)``."""
        start = sum(self.pack.sizes[: self.index])
        stop = start + self.pack.sizes[self.index]
        joint = self.pack.posterior
        return TruncatedLogNormal(joint.loc[start:stop], joint.scale[start:stop], joint.low, joint.high)

    @property
    def support(self) -> constraints.Constraint:
        """The interval of θ, independently for every structure."""
        return constraints.independent(self.posterior.support, 1)

    def expand(self, batch_shape: Shape, _instance: PackedSite | None = None) -> dist.TorchDistribution:
        """Return this site where the shape is its own, an unpacked distribution otherwise."""
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        return self.posterior.expand((*batch_shape, *self.event_shape)).to_event(1)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Return the family's part of this step's joint draw; an extra sample shape draws afresh."""
        if not sample_shape:
            return self.pack.values[self.index]
        return self.posterior.rsample(torch.Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(θ), summed over the family."""
        return self.posterior.log_prob(value).sum(-1)


class FamilyPrior(dist.Independent):
    """One distribution for all structures of a family: ``distribution.expand([*draws, size]).to_event(1)``."""

    def __init__(self, distribution: LogUniform, draws: torch.Size, size: int) -> None:
        self.distribution = distribution
        super().__init__(distribution.expand((*draws, size)), 1, validate_args=False)

    def expand(self, batch_shape: Shape, _instance: FamilyPrior | None = None) -> FamilyPrior:
        """Return the prior of more draws."""
        return FamilyPrior(self.distribution, torch.Size(batch_shape), self.event_shape[0])


@register_kl(PackedSite, FamilyPrior)
def _kl_packed_family(q: PackedSite, p: FamilyPrior) -> Tensor:
    return q.pack.divergence(p.distribution)[q.index].sum().expand(q.batch_shape)


@register_kl(PackedSite, dist.Independent)
def _kl_packed_independent(q: PackedSite, p: dist.Independent) -> Tensor:
    posterior = q.posterior.expand((*q.batch_shape, *q.event_shape)).to_event(1)
    return kl_divergence(posterior, p)


def pack(posterior: TruncatedLogNormal, sizes: tuple[int, ...], draws: torch.Size) -> list[PackedSite]:
    """Split a joint posterior into one site per family.

    Args:
        posterior: joint posterior with batch shape ``(Σ C_f,)``.
        sizes: C_f of each family, in order.
        draws: shape of the independent draws, ``(batch,)`` or ``()``.
    """
    shared = _Pack(posterior, sizes, draws)
    return [PackedSite(shared, index) for index in range(len(sizes))]
