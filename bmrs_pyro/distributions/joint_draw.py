"""The draw and the KL of a training step, from one evaluation of the distribution of log θ."""

from __future__ import annotations

__all__ = ["EAGER", "Kernels", "compiled_kernels", "draw_with_kl"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bmrs_pyro.distributions.central import (
    Central,
    central_entropy,
    central_gradients,
    central_offset,
    outside,
)
from bmrs_pyro.distributions.drawing import outside_of, with_rest
from bmrs_pyro.distributions.first_order import first_order
from bmrs_pyro.distributions.kl import entropy_by_quadrature
from bmrs_pyro.distributions.log_uniform import LogUniform


def _forward(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor, p: Tensor) -> tuple[Tensor, ...]:
    """Draw, and compute E_q[log q(u)] in closed form; tensors as large as the draws are returned in p's dtype."""
    loc, scale = loc.double(), scale.double()
    cut = Central.of(loc, scale, low, high)
    offset = central_offset(cut, p)
    log_theta = torch.addcmul(loc, scale, offset, value=2**0.5)
    return log_theta.to(p.dtype), offset.to(p.dtype), *central_entropy(cut, scale), *cut


@dataclass(frozen=True)
class Kernels:
    """The two functions of a draw with KL, each of about thirty small tensor operations, which can be compiled.

    Args:
        forward: Draws, and E_q[log q(u)] with its derivatives.
        backward: Gradients of the draws.
        everywhere: Whether no branch depends on the values of tensors.
    """

    forward: Callable[..., tuple[Tensor, ...]] = _forward
    backward: Callable[..., tuple[Tensor, ...]] = central_gradients
    everywhere: bool = False

    def branch_free(self) -> Kernels:
        """Return the same functions, with a draw in which no branch depends on the values of tensors."""
        return replace(self, everywhere=True)


EAGER = Kernels()


@cache
def compiled_kernels() -> Kernels:
    """Return the functions compiled by torch.compile, once for all sizes, because structures may be removed."""
    forward, backward = (
        torch.compile(part, dynamic=True, fullgraph=True) for part in (_forward, central_gradients)
    )
    return Kernels(forward, backward)


def draw_with_kl(
    loc: Tensor, scale: Tensor, prior: LogUniform, p: Tensor, kernels: Kernels = EAGER
) -> tuple[Tensor, Tensor]:
    """Draw θ from truncated log-normals on a prior's interval, and compute their KL to the prior.

    Equal in value and gradient to `TruncatedLogNormal(loc, scale, prior.low, prior.high)`, its `rsample` and its
    `kl_divergence`, up to rounding, with fewer tensor operations.

    Args:
        loc: Mean of log θ before truncation, `(C,)`.
        scale: Standard deviation of log θ before truncation, `(C,)`.
        prior: One prior for all, on loc's device.
        p: Uniform draws, `(*draws, C)`, float32 or float64: the dtype that the draws are computed in.
        kernels: `EAGER`, or `compiled_kernels()`.

    Returns:
        θ of p's shape and the KL `(C,)`, in loc's dtype.
    """
    # torch.jit can trace only functions of tensors
    bounds = prior.log_low, prior.log_high, prior.low, prior.high
    theta, kl = _DrawWithKL.apply(loc, scale, p, *bounds, kernels)
    return theta, kl


class _DrawWithKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        loc: Tensor,
        scale: Tensor,
        p: Tensor,
        low: Tensor,
        high: Tensor,
        least: Tensor,
        greatest: Tensor,
        kernels: Kernels,
    ) -> tuple[Tensor, Tensor]:
        log_theta, offset, *entropy, edge, _, _, mass = kernels.forward(loc, scale, low, high, p)
        mask = outside(edge, mass)
        rest = outside_of(mask, (loc, scale, low, high), p, everywhere=kernels.everywhere)
        if rest is not None:
            log_theta = rest.put(log_theta, rest.log_theta)
            exact = entropy_by_quadrature(rest.normal)
            entropy = [rest.put(closed, other) for closed, other in zip(entropy, exact, strict=True)]
        theta = log_theta.exp().clamp_(least, greatest)
        ctx.kernels, ctx.rest = kernels, rest
        ctx.save_for_backward(p, offset, theta, edge, *entropy[1:], loc, scale)
        return theta.to(loc.dtype), (entropy[0] + (high - low).log()).to(loc.dtype)

    @staticmethod
    @first_order(lambda saved: saved[6:])
    def backward(ctx: Any, grad_theta: Tensor, grad_kl: Tensor) -> tuple[Tensor | None, ...]:
        p, offset, theta, edge, kl_by_loc, kl_by_scale = ctx.saved_tensors[:6]
        grad_u = grad_theta.to(theta.dtype) * theta
        gradients = with_rest(ctx.rest, grad_u, ctx.kernels.backward(edge, grad_u, p, offset))
        of_kl = kl_by_loc, kl_by_scale
        by_loc, by_scale = (
            torch.addcmul(of_draw, grad_kl, other).to(grad_kl.dtype)
            for of_draw, other in zip(gradients, of_kl, strict=True)
        )
        return by_loc, by_scale, *(None,) * 6
