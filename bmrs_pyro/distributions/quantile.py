"""Quantiles of a truncated log-normal with their closed-form derivatives: what a training step draws with."""

from __future__ import annotations

__all__ = ["truncated_log_normal_quantile"]

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.special import erfc, erfcx, ndtri

from bmrs_pyro.distributions.truncated_normal import TruncatedNormal

# With loc this many standard deviations outside the interval, Φ leaves nothing to invert (float64 erfc ends at
# 37) and the distance to the near bound is solved for instead. At 35 both ways are good to 1e-11.
FAR = 35.0


def truncated_log_normal_quantile(p: Tensor, law: TruncatedNormal, low: Tensor, high: Tensor) -> Tensor:
    """θ with P(θ' ≤ θ) = p, for log θ' ~ N(loc, scale²) cut to [log low, log high].

    Differentiable once in p, loc and scale. With ξ = (log θ − loc)/scale, the bounds α and β in the same
    units and the standard normal density φ, implicit differentiation at fixed p gives

        ∂ log θ/∂loc   = 1 − [(1 − p) φ(α) + p φ(β)] / φ(ξ)
        ∂ log θ/∂scale = ξ − [(1 − p) α φ(α) + p β φ(β)] / φ(ξ).

    Args:
        p: Probabilities in [0, 1], float64, of shape `sample_shape + batch_shape`.
        law: The law of log θ.
        low: exp(law.low) as the user gave it; draws never leave [low, high], whatever exp rounds to.
        high: The same for the upper bound.

    Returns:
        θ in float64, of p's shape.

    Reference:
        Figurnov, Mohamed and Mnih, "Implicit Reparameterization Gradients", 2018, equation 6.
    """
    return _Quantile.apply(p, law.loc, law.scale, law.low, law.high, low, high)


class _Quantile(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, *args: Tensor) -> Tensor:
        *parameters, low, high = args
        law = TruncatedNormal(*parameters)
        offset = _offset(p, law)
        theta = (law.mode + law.scale * offset).exp_().clamp_(low, high)
        ctx.save_for_backward(p, offset, theta)
        ctx.law = law
        return theta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, offset, theta = ctx.saved_tensors
        law: TruncatedNormal = ctx.law
        grad_u = grad * theta
        # φ(bound)/φ(ξ), both relative to φ at the mode; the clamp is for p = 0 and 1, where this is 0·inf
        lift = (-law.exponent(offset)).clamp_(max=700.0).exp_()
        at_low, at_high = law.exponent(law.lower).exp(), law.exponent(law.upper).exp()
        by_loc = 1 - lift * torch.lerp(at_low, at_high, p)
        alpha, beta = law.slope + law.lower, law.slope + law.upper
        by_scale = (law.slope + offset) - lift * torch.lerp(alpha * at_low, beta * at_high, p)
        return (
            grad_u * law.integral * lift if ctx.needs_input_grad[0] else None,
            (grad_u * by_loc).sum_to_size(law.loc.shape),
            (grad_u * by_scale).sum_to_size(law.scale.shape),
            *(None,) * 4,
        )


def _offset(p: Tensor, law: TruncatedNormal) -> Tensor:
    """Offset from the mode, in units of scale, below which the mass p lies."""
    alpha, beta = law.slope + law.lower, law.slope + law.upper
    below = torch.lerp(_ndtr(alpha), _ndtr(beta), p)
    above = torch.lerp(_ndtr(-alpha), _ndtr(-beta), p)
    # the smaller of the two tails is inverted: of 1 − tail no digits are left
    offset = ndtri(torch.minimum(below, above)).copysign_(below - above) - law.slope
    far = law.slope.abs() > FAR
    if far.any():
        far = far.expand(p.shape[p.dim() - far.dim() :])
        slope, length = (t.expand(far.shape)[far] for t in (law.slope, law.upper - law.lower))
        offset[..., far] = _far_offset(p[..., far], slope, length)
    return offset.clamp_(law.lower, law.upper)


def _far_offset(p: Tensor, slope: Tensor, length: Tensor) -> Tensor:
    """The same where the mode sits on a bound, more than FAR standard deviations from loc.

    With b = |slope| and Mills' ratio R, the distance d from that bound solves

        d (b + d/2) − log R(b + d)/R(b) = t,    e^−t = mass farther than d / mass of the uncut tail;

    its derivative is 1/R(b + d). The start is within (t/b²)² of the solution, one Newton step from rounding.
    """
    b = slope.abs()
    mills_b = _mills(b)
    log_rest = (_mills(b + length) / mills_b).log() - length * (b + length / 2)
    nearer, farther = torch.where(slope < 0, 1 - p, p), torch.where(slope < 0, p, 1 - p)
    # two forms of one number, each for the half of the mass where it keeps its digits
    in_tail = (farther + nearer * log_rest.exp()).log()
    at_bound = torch.log1p(nearer * torch.expm1(log_rest))
    t = -torch.where(farther < 0.5, in_tail, at_bound).maximum(log_rest)
    s = t - torch.log1p(t / b**2)
    d = 2 * s / (b + (b**2 + 2 * s).sqrt())
    mills_d = _mills(b + d)
    d = d - (d * (b + d / 2) - (mills_d / mills_b).log() - t) * mills_d
    return d.copysign(slope)


def _ndtr(x: Tensor) -> Tensor:
    """Φ(x), with the lower tail that torch.special.ndtr rounds to 0."""
    return erfc(x * -math.sqrt(0.5)) / 2


def _mills(x: Tensor) -> Tensor:
    """Mills' ratio (1 − Φ(x))/φ(x)."""
    return math.sqrt(math.pi / 2) * erfcx(x * math.sqrt(0.5))
