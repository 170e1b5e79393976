"""AdaBelief, the optimiser of the published runs."""

from __future__ import annotations

__all__ = ["AdaBelief"]

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class AdaBelief(torch.optim.Optimizer):
    """Adam with the variance of the gradient around its mean in place of its second moment.

        m ← β₁ m + (1 − β₁) g,   s ← β₂ s + (1 − β₂)(g − m)² + ε,   w ← w − η m̂ / (√ŝ + ε)

    with m̂ = m/(1 − β₁ᵗ) and ŝ = s/(1 − β₂ᵗ).

    Args:
        params: tensors, or groups of them.
        lr: η.
        betas: β₁ and β₂.
        eps: ε.

    Reference:
        Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", 2020, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(
                        parameter, parameter.grad, **{key: group[key] for key in ("lr", "betas", "eps")}
                    )
        return loss

    def _update(
        self, parameter: Tensor, grad: Tensor, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        beta1, beta2 = betas
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(grad), "variance": torch.zeros_like(grad)}
        state["step"] = step = int(state["step"]) + 1  # a tensor, after a state was loaded
        mean, variance = state["mean"], state["variance"]
        mean.lerp_(grad, 1 - beta1)
        deviation = grad - mean
        variance.mul_(beta2).addcmul_(deviation, deviation, value=1 - beta2).add_(eps)
        root = math.sqrt(1 - beta2**step)
        parameter.addcdiv_(mean, variance.sqrt().div_(root).add_(eps), value=-lr / (1 - beta1**step))
