"""KL divergence of the posterior from the prior, the regulariser of a training step."""

from __future__ import annotations

__all__ = ["entropy_by_quadrature", "kl_truncated_log_normal_log_uniform", "negative_entropy"]

from typing import Any

import torch
from torch import Tensor
from torch.distributions import register_kl

from bmrs_pyro.distributions.central import Central, central_entropy, outside
from bmrs_pyro.distributions.first_order import first_order
from bmrs_pyro.distributions.log_uniform import LogUniform
from bmrs_pyro.distributions.quantile import branch_free
from bmrs_pyro.distributions.truncated_log_normal import TruncatedLogNormal
from bmrs_pyro.distributions.truncated_normal import TruncatedNormal


@register_kl(TruncatedLogNormal, LogUniform)
def kl_truncated_log_normal_log_uniform(q: TruncatedLogNormal, p: LogUniform) -> Tensor:
    """KL(q || p) = E_q[log q(u)] + log(log high − log low) with u = log θ, in nats.

    The expectation is computed in float64 on the unexpanded parameters, so that it costs the same for any batch. It has
    a closed form where that keeps nine digits, else it is a sum over 32 nodes around the mode. The relative error is
    below 1e-9; that of the gradient is below 1e-6, or 1e-9 absolute near 0.

    Args:
        q: Posterior of batch shape `(C,)`.
        p: Prior whose interval contains the posterior's; where it does not, the divergence is inf.

    Returns:
        Shape of the two batch shapes broadcast, in q's dtype.
    """
    normal = q.log_distribution
    log_width = p.log_width.where(p.contains(q), torch.inf).log()
    entropy, *_ = _NegativeEntropy.apply(normal.loc, normal.scale, normal.low, normal.high)
    kl = entropy + log_width
    # torch.broadcast_shapes takes as long as the KL; usually all structures have one prior
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape) if p.batch_shape else q.batch_shape
    return kl.to(q.dtype).expand(shape)


@register_kl(LogUniform, LogUniform)
def _kl_log_uniforms(q: LogUniform, p: LogUniform) -> Tensor:
    """KL(q || p) = log of the ratio of the intervals' lengths in log θ if p's contains q's; else inf."""
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    kl = (p.log_width / q.log_width).log().clamp(min=0)  # the bounds may differ by rounding
    return kl.where(p.contains(q), torch.inf).to(torch.promote_types(q.dtype, p.dtype)).expand(shape)


@register_kl(TruncatedLogNormal, TruncatedLogNormal)
def _kl_truncated_log_normals(q: TruncatedLogNormal, p: TruncatedLogNormal) -> Tensor:
    """KL(q || p) = E_q[log q(u) − log p(u)] with u = log θ, by 48 nodes, if p's interval contains q's; else inf."""
    ours, other = q.log_distribution, p.log_distribution
    offset, mass = ours.grid(count=48)
    u = ours.mode + ours.scale * offset
    # rounding of the bounds may place a node outside p's interval
    ratio = ours.exponent(offset) - ours.integral.log() - other.log_density(u)
    kl = (mass * ratio).sum(0) / mass.sum(0)
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    return kl.where(p.contains(q), torch.inf).to(torch.promote_types(q.dtype, p.dtype)).expand(shape)


def negative_entropy(normal: TruncatedNormal) -> tuple[Tensor, ...]:
    """E_q[log q(u)] with its derivatives with respect to loc and scale."""
    parameters = torch.broadcast_tensors(normal.loc, normal.scale, normal.low, normal.high)
    cut = Central.of(*parameters)
    closed = central_entropy(cut, normal.scale)
    mask = outside(cut.edge, cut.mass)
    if branch_free():
        exact = entropy_by_quadrature(normal)
        return tuple(torch.where(mask, *pair) for pair in zip(exact, closed, strict=True))
    if mask.any():
        exact = entropy_by_quadrature(TruncatedNormal(*(part[mask] for part in parameters)))
        for values, others in zip(closed, exact, strict=True):
            values[mask] = others
    return closed


def entropy_by_quadrature(normal: TruncatedNormal) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `negative_entropy`, by quadrature for every distribution.

    q ∝ exp(e) with ∂e/∂loc = z/scale and ∂e/∂scale = −2e/scale up to constants, and dE_q[log q] = Cov(e, de).
    """
    offset, mass = normal.grid()
    exponent = normal.exponent(offset)
    integral = mass.sum(0)
    mean = (mass * exponent).sum(0) / integral
    deviation = mass * (exponent - mean)
    unit = integral * normal.scale
    by_loc = (deviation * offset).sum(0) / unit
    by_scale = (deviation * exponent).sum(0) * -2 / unit
    return mean - integral.log(), by_loc, by_scale


class _NegativeEntropy(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
        return negative_entropy(TruncatedNormal(loc, scale, low, high))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *inputs[:2])
        ctx.shapes = inputs[0].shape, inputs[1].shape

    @staticmethod
    @first_order(lambda saved: saved[2:])
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        by_loc, by_scale = ctx.saved_tensors[:2]
        loc_shape, scale_shape = ctx.shapes
        return (grad * by_loc).sum_to_size(loc_shape), (grad * by_scale).sum_to_size(scale_shape), None, None
