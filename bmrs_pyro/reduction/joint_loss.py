"""The loss of log-likelihood if several structures are removed together."""

from __future__ import annotations

__all__ = ["JointLoss"]

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class JointLoss:
    """The loss of log-likelihood to second order, with the empirical Fisher information of all gains.

        loss(S) = N/(2n) Σ_i (Σ_{c ∈ S} g_ic)²,    g_ic = ∂ log p(y_i | x_i, θ)/∂θ_c at θ = 1

    Two structures that do the same work have equal gradients: together they cost four times as much as one of them.
    So small losses of single structures do not empty a family.

    Args:
        names: The families, in the order of the gradients.
        gradients: g, `(n, Σ C_f)`, nats.
        weight: N/n.

    Reference:
        Hassibi and Stork, "Second order derivatives for network pruning", 1993, without their update of the weights.
    """

    names: tuple[str, ...]
    gradients: Tensor
    weight: float

    @cached_property
    def alone(self) -> Tensor:
        """The loss if one structure alone is removed, for every structure, `(Σ C_f,)`, nats."""
        return self.weight * self.gradients.double().square().sum(0) / 2

    def __call__(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Minus the growth of the loss if a structure is removed too, `(C,)` per family, nats.

        Args:
            masks: True for structures that are not removed yet.
        """
        kept = [masks[name] for name in self.names]
        gone = ~torch.cat(kept).to(self.gradients.device)
        together = self.gradients[:, gone].sum(1) @ self.gradients
        values = -(self.alone + self.weight * together.double())
        return dict(zip(self.names, values.cpu().split([len(mask) for mask in kept]), strict=True))
