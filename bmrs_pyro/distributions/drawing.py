"""Draws of truncated log-normals by erf, and by the exact quantile where erf gives too few digits."""

from __future__ import annotations

__all__ = ["Outside", "draw", "outside_of", "with_rest"]

from typing import Any

import torch
from torch import Tensor

from bmrs_pyro.distributions.central import Central, central_gradients, central_offset, outside
from bmrs_pyro.distributions.first_order import first_order
from bmrs_pyro.distributions.quantile import branch_free, exact_offset, offset_gradients
from bmrs_pyro.distributions.truncated_normal import TruncatedNormal


def draw(p: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Draw θ from log θ ~ N(loc, scale²) truncated to [log low, log high], for uniform draws p; exact to p's dtype.

    Args:
        p: Uniform draws, float32 or float64, of shape `sample_shape + batch_shape`.
        loc: Mean of log θ before truncation.
        scale: Standard deviation of log θ before truncation.
        low: Lower bound of θ, float64.
        high: Upper bound of θ, float64.

    Returns:
        θ in p's dtype and shape; differentiable once in loc and scale.
    """
    dims = max(part.dim() for part in (loc, low, high))
    shape = p.shape[p.dim() - dims :]
    if loc.shape != shape:
        loc, scale = loc.expand(shape), scale.expand(shape)
    theta, _ = _Draw.apply(p, loc, scale, low, high)
    return theta


class _Draw(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        parameters = loc.double(), scale.double(), low.log(), high.log()
        cut = Central.of(*parameters)
        offset = central_offset(cut, p)
        log_theta = torch.addcmul(parameters[0], parameters[1], offset, value=2**0.5).to(p.dtype)
        rest = outside_of(outside(cut.edge, cut.mass), parameters, p, everywhere=branch_free())
        if rest is not None:
            log_theta = rest.put(log_theta, rest.log_theta)
        return log_theta.exp().maximum(low.to(p.dtype)).minimum(high.to(p.dtype)), offset.to(p.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        theta, offset = output
        ctx.mark_non_differentiable(offset)
        ctx.save_for_backward(*inputs, theta, offset)

    @staticmethod
    @first_order(lambda saved: saved[1:3])
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        p, loc, scale, low, high, theta, offset = ctx.saved_tensors
        parameters = loc.double(), scale.double(), low.log(), high.log()
        cut = Central.of(*parameters)
        rest = outside_of(outside(cut.edge, cut.mass), parameters, p, everywhere=branch_free())
        grad_u = grad * theta
        by_loc, by_scale = with_rest(rest, grad_u, central_gradients(cut.edge, grad_u, p, offset))
        return None, by_loc.to(loc.dtype), by_scale.to(scale.dtype), None, None


def outside_of(
    mask: Tensor, parameters: tuple[Tensor, ...], p: Tensor, *, everywhere: bool
) -> Outside | None:
    """Return the distributions where the mask is True; None if there are none."""
    return Outside(mask, parameters, p, everywhere=everywhere) if everywhere or mask.any() else None


def with_rest(rest: Outside | None, grad_u: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Replace gradients with respect to loc and scale by exact ones where the closed form is inaccurate."""
    if rest is None:
        return gradients
    exact = offset_gradients(rest.normal, rest.of(grad_u).double(), rest.p, rest.offset)
    return tuple(rest.put(whole, part) for whole, part in zip(gradients, exact, strict=True))


class Outside:
    """The distributions that are far in a tail or nearly flat, computed by methods that are accurate for any.

    Args:
        mask: True for these distributions; p has the mask's dimensions last.
        parameters: loc, scale, and the bounds of log θ, of all distributions.
        p: Probabilities of all distributions.
        everywhere: Compute for all distributions and apply the mask at the end, so that no code depends on its values.
    """

    def __init__(self, mask: Tensor, parameters: tuple[Tensor, ...], p: Tensor, *, everywhere: bool) -> None:
        self.mask, self.everywhere = mask, everywhere
        self.normal = TruncatedNormal(*(self.of(part.double().expand(mask.shape)) for part in parameters))
        self.p = self.of(p).double()
        self.offset = exact_offset(self.normal, self.p, everywhere=everywhere)

    @property
    def log_theta(self) -> Tensor:
        """The quantiles of log θ."""
        return torch.addcmul(self.normal.mode, self.normal.scale, self.offset)

    def of(self, whole: Tensor) -> Tensor:
        """Return the entries of a tensor that belong to these distributions."""
        return whole if self.everywhere else whole[..., self.mask]

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return a tensor with the entries of these distributions replaced, in place if possible."""
        part = part.to(whole.dtype)
        if self.everywhere:
            return torch.where(self.mask, part, whole)
        whole[..., self.mask] = part
        return whole
