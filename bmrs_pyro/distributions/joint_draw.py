"""The draw and the KL of a training step, from one evaluation of the distribution of log θ."""

from __future__ import annotations

__all__ = ["EAGER", "Kernels", "compiled_kernels", "draw_with_kl"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bmrs_pyro.distributions.kl import negative_entropy
from bmrs_pyro.distributions.log_uniform import LogUniform
from bmrs_pyro.distributions.quantile import branch_free_offset, drawn_offset, offset_gradients
from bmrs_pyro.distributions.truncated_normal import TruncatedNormal


@dataclass(frozen=True)
class Kernels:
    """The pieces of a draw with KL that there are several ways to run.

    The latter two are worth compiling: chains of some forty small tensor operations.

    Args:
        offset: `drawn_offset`, or `branch_free_offset`.
        entropy: `negative_entropy`.
        gradients: `offset_gradients`.
    """

    offset: Callable[[TruncatedNormal, Tensor], Tensor]
    entropy: Callable[..., tuple[Tensor, ...]]
    gradients: Callable[..., tuple[Tensor, ...]]

    def branch_free(self) -> Kernels:
        """Return the same with a draw that never looks at numbers to decide what to do."""
        return replace(self, offset=branch_free_offset)


EAGER = Kernels(drawn_offset, negative_entropy, offset_gradients)


@cache
def compiled_kernels() -> Kernels:
    """Return the pieces as torch.compile makes them, once for all sizes: structures may leave."""
    return Kernels(drawn_offset, _compiled(negative_entropy), _compiled(offset_gradients))


def draw_with_kl(
    loc: Tensor, scale: Tensor, prior: LogUniform, p: Tensor, kernels: Kernels = EAGER
) -> tuple[Tensor, Tensor]:
    """Draw θ from truncated log-normals on a prior's interval, with their KL to it.

    Equal in value and gradient to `TruncatedLogNormal(loc, scale, prior.low, prior.high)`, its `rsample` and its
    `kl_divergence`, but for rounding, with fewer tensor operations.

    Args:
        loc: Mean of log θ before it is cut, `(C,)`.
        scale: Standard deviation of log θ before it is cut, `(C,)`.
        prior: One distribution for all, on loc's device.
        p: Uniform draws in float64, `(*draws, C)`.
        kernels: `EAGER`, or `compiled_kernels()`.

    Returns:
        θ of p's shape and the KL `(C,)`, in loc's dtype.
    """
    theta, kl = _DrawWithKL.apply(loc, scale, p, prior, kernels)
    return theta, kl


class _DrawWithKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loc: Tensor, scale: Tensor, p: Tensor, prior: LogUniform, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        normal = TruncatedNormal(loc.double(), scale.double(), prior.log_low, prior.log_high)
        offset = kernels.offset(normal, p)
        theta = torch.addcmul(normal.mode, normal.scale, offset).exp_().clamp_(prior.low, prior.high)
        value, *derivatives = kernels.entropy(normal)
        ctx.normal, ctx.kernels = normal, kernels
        ctx.save_for_backward(p, offset, theta, *derivatives)
        return theta.to(loc.dtype), (value + prior.log_width.log()).to(loc.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_theta: Tensor, grad_kl: Tensor) -> tuple[Tensor | None, ...]:
        p, offset, theta, kl_by_loc, kl_by_scale = ctx.saved_tensors
        by_loc, by_scale = ctx.kernels.gradients(ctx.normal, grad_theta.double() * theta, p, offset)
        return (
            by_loc.addcmul_(grad_kl, kl_by_loc).to(grad_kl.dtype),
            by_scale.addcmul_(grad_kl, kl_by_scale).to(grad_kl.dtype),
            *(None,) * 3,
        )


def _compiled(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    # the distribution goes in as its four tensors: what an object holds would be checked at every call
    @torch.compile(dynamic=True, fullgraph=True)
    def of_tensors(
        loc: Tensor, scale: Tensor, low: Tensor, high: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        return function(TruncatedNormal(loc, scale, low, high), *others)

    def of_distribution(normal: TruncatedNormal, *others: Tensor) -> tuple[Tensor, ...]:
        return of_tensors(normal.loc, normal.scale, normal.low, normal.high, *others)

    return of_distribution
