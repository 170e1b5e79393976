"""The loss of log-likelihood if several structures are removed together, and the gains of the others adapt."""

from __future__ import annotations

__all__ = ["RIDGE", "JointLoss"]

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

RIDGE = 1.0
"""What it costs to change a gain, relative to the information about it; the less, the more freely gains adapt."""

_FARTHEST = 2.0  # a gain of more than this, or of less than its inverse, is too far from 1 for a quadratic


@dataclass(frozen=True)
class JointLoss:
    """The loss of log-likelihood to second order, with the empirical Fisher information of all gains.

        loss(S) = min_δ N/(2n) [ Σ_i (Σ_{c ∈ S} g_ic − Σ_{k ∉ S} g_ik δ_k)² + λ Σ_{k ∉ S} δ_k² Σ_i g_ik² ],
        g_ic = ∂ log p(y_i | x_i, θ)/∂θ_c at θ = 1

    δ_k is the change of a remaining gain, which makes up for the removed structures as far as it can. Of two structures
    that do the same work, one can replace the other, so that the first costs little; then the second costs all. The
    ridge λ keeps gains from adapting to the noise of few examples.

    Args:
        names: The families, in the order of the gradients.
        gradients: g, `(n, Σ C_f)`, nats.
        weight: N/n.
        fixed: The families whose remaining gains stay 1, because no weight can hold them.

    Reference:
        Hassibi and Stork, "Second order derivatives for network pruning", 1993, equation 5, with a ridge. Friston and
        Penny, "Post hoc Bayesian model selection", 2011: this is ΔF of a joint normal posterior of all gains.
    """

    names: tuple[str, ...]
    gradients: Tensor
    weight: float
    fixed: Collection[str] = ()
    _latest: list[_Removed] = field(default_factory=list, init=False, repr=False, compare=False)

    @cached_property
    def alone(self) -> Tensor:
        """The loss without one structure if no gain adapts, half the information about its own, `(Σ C_f,)`, nats."""
        return self.weight * self.gradients.double().square().sum(0) / 2

    def __call__(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Minus the growth of the loss if a structure is removed too, `(C,)` per family, nats.

        Args:
            masks: True for structures that are not removed yet.
        """
        return self._split(-0.5 * self.weight * self._without(masks).growth, masks)

    def gains(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gains 1 + δ of the remaining structures, `(C,)` per family; 1 for those that are removed.

        Args:
            masks: True for structures that remain.
        """
        gains = (1 + self._without(masks).change).clamp(1 / _FARTHEST, _FARTHEST)
        return self._split(gains, masks)

    def _without(self, masks: Mapping[str, Tensor]) -> _Removed:
        """Return the state without the structures that are not kept; it goes on from the latest state if it can."""
        gone = ~torch.cat([masks[name] for name in self.names]).to(self.gradients.device)
        if not self._latest or (self._latest[0].gone & ~gone).any():
            adapts = [torch.full(masks[name].shape, name not in self.fixed) for name in self.names]
            self._latest[:] = [_Removed(self.gradients, torch.cat(adapts).to(gone.device))]
        (state,) = self._latest
        for index in (gone & ~state.gone).nonzero().flatten().tolist():
            state.remove_(index)
        return state

    def _split(self, values: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sizes = [len(masks[name]) for name in self.names]
        return dict(zip(self.names, values.cpu().split(sizes), strict=True))


class _Removed:
    """The loss without the structures S, without its factor N/(2n), which are removed one by one.

    With G_K the gradients of the gains that may adapt, and M = (1 + Σ_{k ∈ K} g_k g_kᵀ/(λ ‖g_k‖²))⁻¹, the least loss is
    bᵀ M b with b = Σ_{c ∈ S} g_c, at δ_k = g_kᵀ M b/(λ ‖g_k‖²). A removal changes M by a matrix of rank one.
    """

    def __init__(self, gradients: Tensor, adapts: Tensor) -> None:
        g = gradients.double()
        if len(g) > g.shape[1]:  # only inner products count
            g = torch.linalg.qr(g, mode="r").R
        self.g, self.adapts = g, adapts
        self.gone = torch.zeros_like(adapts)
        self.square = g.square().sum(0).clamp_min(torch.finfo(g.dtype).tiny)
        units = (g * self.square.rsqrt())[:, adapts]
        self.m = torch.linalg.inv(torch.eye(len(g), dtype=g.dtype, device=g.device) + units @ units.T / RIDGE)
        self.own = (g * (self.m @ g)).sum(0)  # g_cᵀ M g_c
        self.shared = torch.zeros_like(self.own)  # g_cᵀ M b

    def remove_(self, index: int) -> None:
        """Remove one more structure."""
        u = self.m @ self.g[:, index]
        products = u @ self.g
        self.gone[index] = True
        if not self.adapts[index]:
            self.shared += products
            return
        room = self._room[index]
        self.shared += products * (1 + (self.shared[index] + self.own[index]) / room)
        self.own += products.square() / room
        self.m.addr_(u, u / room)

    @property
    def growth(self) -> Tensor:
        """How much the loss grows if a structure is removed too, `(Σ C_f,)`; 0 for those that are removed already."""
        together = self.shared + self.own
        replaced = torch.where(self.adapts, together.square() / self._room, 0.0)
        return (self.shared + together + replaced).masked_fill(self.gone, 0.0)

    @property
    def change(self) -> Tensor:
        """δ of the remaining gains that may adapt, `(Σ C_f,)`; 0 for others."""
        return torch.where(self.adapts & ~self.gone, self.shared / (RIDGE * self.square), 0.0)

    @property
    def _room(self) -> Tensor:
        """λ ‖g_c‖² − g_cᵀ M g_c, which is positive."""
        return (RIDGE * self.square - self.own).clamp_min(RIDGE**2 / (1 + RIDGE) * self.square)
