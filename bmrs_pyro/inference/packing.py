"""One draw and one KL for all structure families, with a visible Pyro site for each of them."""

from __future__ import annotations

__all__ = ["FamilyPrior", "Pack", "PackedSite"]

from functools import cached_property
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal

Shape = torch.Size | list[int] | tuple[int, ...]


class Pack:
    """The joint posterior of all families, with its draws and its KL of this step.

    Args:
        posterior: joint posterior with batch shape ``(Σ C_f,)``.
        sizes: C_f of each family, in order.
        theta: draws from the posterior, ``(*draws, Σ C_f)``.
        prior: one prior for all families.
        divergence: KL from the posterior to the prior, ``(Σ C_f,)``.
    """

    def __init__(
        self,
        posterior: TruncatedLogNormal,
        sizes: tuple[int, ...],
        theta: Tensor,
        prior: LogUniform,
        divergence: Tensor,
    ) -> None:
        self.posterior, self.sizes, self.theta, self.prior = posterior, sizes, theta, prior
        self.draws = torch.Size(theta.shape[:-1])  # of plain numbers: under torch.jit a shape holds tensors
        self.values = theta.split(sizes, -1)
        self.divergences = divergence.split(sizes)

    @cached_property
    def log_probs(self) -> tuple[Tensor, ...]:
        """Log q of the draws, summed over the family: for each family a tensor of shape ``draws``."""
        parts = self.posterior.log_prob(self.theta).split(self.sizes, -1)
        return tuple(part.sum(-1) for part in parts)

    def sites(self) -> list[PackedSite]:
        """Return one site per family."""
        return [PackedSite(self, index) for index in range(len(self.sizes))]


class PackedSite(dist.TorchDistribution):
    """One family's posterior, as a view of the joint posterior.

    It equals ``posterior.expand([*draws, C]).to_event(1)`` in distribution. All families share the computation: a step
    costs one draw and one KL, for any number of families.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, pack: Pack, index: int) -> None:
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
        """Return this site if the shape is its own, else an unpacked distribution."""
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        return self.posterior.expand((*batch_shape, *self.event_shape)).to_event(1)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Return the family's part of this step's joint draw; with a sample shape, return new draws."""
        if not sample_shape:
            return self.pack.values[self.index]
        return self.posterior.rsample(torch.Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(θ), summed over the family; for this step's draws it is computed once for all families."""
        if value is self.pack.values[self.index]:
            return self.pack.log_probs[self.index]
        return self.posterior.log_prob(value).sum(-1)


class FamilyPrior(dist.Independent):
    """One distribution for all structures of a family: ``distribution.expand([*draws, size]).to_event(1)``."""

    def __init__(self, distribution: LogUniform, draws: torch.Size, size: int) -> None:
        self.distribution = distribution
        super().__init__(distribution.expand((*draws, size)), 1, validate_args=False)

    def expand(self, batch_shape: Shape, _instance: FamilyPrior | None = None) -> FamilyPrior:
        """Return the prior with another shape of draws."""
        return FamilyPrior(self.distribution, torch.Size(batch_shape), self.event_shape[0])


@register_kl(PackedSite, FamilyPrior)
def _kl_packed_family(q: PackedSite, p: FamilyPrior) -> Tensor:
    if p.distribution is q.pack.prior:
        return q.pack.divergences[q.index].sum().expand(q.batch_shape)
    return _kl_packed_independent(q, p)


@register_kl(PackedSite, dist.Independent)
def _kl_packed_independent(q: PackedSite, p: dist.Independent) -> Tensor:
    posterior = q.posterior.expand((*q.batch_shape, *q.event_shape)).to_event(1)
    return kl_divergence(posterior, p)
