"""Quantiles of a truncated log-normal with their closed-form derivatives."""

from __future__ import annotations

__all__ = ["branch_free", "exact_offset", "offset_gradients", "truncated_log_normal_quantile"]

import math
from typing import Any

import torch
from torch import Tensor
from torch.special import erfc, erfcx, ndtri

from bmrs_pyro.distributions.first_order import first_order
from bmrs_pyro.distributions.truncated_normal import TruncatedNormal

# If loc is this many standard deviations outside the interval, Φ underflows (float64 erfc does at 37), and an
# equation for the distance to the near bound is solved instead. At 35 both methods are accurate to 1e-11.
FAR = 35.0


def truncated_log_normal_quantile(p: Tensor, normal: TruncatedNormal, low: Tensor, high: Tensor) -> Tensor:
    """θ with P(θ' ≤ θ) = p, for log θ' ~ N(loc, scale²) truncated to [log low, log high].

    Differentiable once in p, loc and scale. With ξ = (log θ − loc)/scale, the bounds α and β in the same
    units and the standard normal density φ, implicit differentiation at fixed p gives

        ∂ log θ/∂loc   = 1 − [(1 − p) φ(α) + p φ(β)] / φ(ξ)
        ∂ log θ/∂scale = ξ − [(1 − p) α φ(α) + p β φ(β)] / φ(ξ).

    Args:
        p: Probabilities in [0, 1], float64, of shape `sample_shape + batch_shape`.
        normal: The distribution of log θ.
        low: exp(normal.low) as the user gave it; draws never leave [low, high], whatever exp rounds to.
        high: The same for the upper bound.

    Returns:
        θ in float64, of p's shape.

    Reference:
        Figurnov, Mohamed and Mnih, "Implicit Reparameterization Gradients", 2018, equation 6.
    """
    theta, _ = _Quantile.apply(p, normal.loc, normal.scale, normal.low, normal.high, low, high)
    return theta


class _Quantile(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        p: Tensor, loc: Tensor, scale: Tensor, log_low: Tensor, log_high: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        normal = TruncatedNormal(loc, scale, log_low, log_high)
        offset = exact_offset(normal, p, everywhere=branch_free())
        return (normal.mode + normal.scale * offset).exp().clamp(low, high), offset

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        theta, offset = output
        ctx.mark_non_differentiable(offset)
        ctx.save_for_backward(*inputs[:5], theta, offset)

    @staticmethod
    @first_order(lambda saved: saved[:3])
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        p, *parameters, theta, offset = ctx.saved_tensors
        normal = TruncatedNormal(*parameters)
        grad_u = grad * theta
        by_loc, by_scale = offset_gradients(normal, grad_u, p, offset)
        return (
            grad_u * normal.integral * _lift(offset, normal) if ctx.needs_input_grad[0] else None,
            by_loc.sum_to_size(normal.loc.shape),
            by_scale.sum_to_size(normal.scale.shape),
            *(None,) * 4,
        )


def branch_free() -> bool:
    """Whether no branch may depend on the values of tensors: inside a transform of torch.func."""
    return torch._C._functorch.maybe_current_level() is not None


def offset_gradients(
    normal: TruncatedNormal, grad_u: Tensor, p: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ grad_u ∂u/∂loc and Σ grad_u ∂u/∂scale over the draws u = log θ, at fixed p.

    Args:
        normal: The distribution of u.
        grad_u: Gradient with respect to u, of shape `sample_shape + batch_shape`, as p and offset.
        p: Probabilities.
        offset: Offsets z of u from the distribution's mode.

    Returns:
        Both in the distribution's shape.
    """
    shape = normal.slope.shape
    lifted = grad_u * _lift(offset, normal)
    # the draws enter only through four sums; all other factors depend on the distribution alone
    at_low = (lifted * (1 - p)).sum_to_size(shape) * normal.exponent(normal.lower).exp()
    at_high = (lifted * p).sum_to_size(shape) * normal.exponent(normal.upper).exp()
    alpha, beta = normal.slope + normal.lower, normal.slope + normal.upper
    total = grad_u.sum_to_size(shape)
    by_scale = (grad_u * offset).sum_to_size(shape) + normal.slope * total - alpha * at_low - beta * at_high
    return total - at_low - at_high, by_scale


def _lift(offset: Tensor, normal: TruncatedNormal) -> Tensor:
    """φ at the mode over φ(ξ); clamped, because at p = 0 and 1 it is multiplied by zero and could be inf."""
    return normal.exponent(offset).neg().clamp(max=700.0).exp()


def exact_offset(normal: TruncatedNormal, p: Tensor, *, everywhere: bool = False) -> Tensor:
    """Offset from the mode, in units of scale, below which the mass p lies.

    Args:
        normal: The distribution.
        p: Probabilities.
        everywhere: Use both methods for all distributions and choose at the end, for CUDA graphs and torch.func.
    """
    offset = _central(normal, p)
    far = normal.slope.abs() > FAR
    if everywhere:
        offset = torch.where(far, _far_offset(p, normal.slope, normal.upper - normal.lower), offset)
    elif far.any():
        far = far.expand(p.shape[p.dim() - far.dim() :])
        slope, length = (t.expand(far.shape)[far] for t in (normal.slope, normal.upper - normal.lower))
        offset[..., far] = _far_offset(p[..., far], slope, length)
    return offset.maximum(normal.lower).minimum(normal.upper)


def _central(normal: TruncatedNormal, p: Tensor) -> Tensor:
    """The offset, by the inverse of the smaller tail, because 1 − tail would lose all digits."""
    alpha, beta = normal.slope + normal.lower, normal.slope + normal.upper
    below = torch.lerp(_ndtr(alpha), _ndtr(beta), p)
    above = torch.lerp(_ndtr(-alpha), _ndtr(-beta), p)
    return ndtri(torch.minimum(below, above)).copysign(below - above) - normal.slope


def _far_offset(p: Tensor, slope: Tensor, length: Tensor) -> Tensor:
    """The offset if the mode is a bound, more than FAR standard deviations from loc.

    With b = |slope| and Mills' ratio R, the distance d from that bound solves

        d (b + d/2) − log R(b + d)/R(b) = t,    e^−t = mass farther than d / mass of the whole tail;

    its derivative is 1/R(b + d). The start is within (t/b²)² of the solution, so one Newton step suffices.
    """
    b = slope.abs()
    mills_b = _mills(b)
    log_rest = (_mills(b + length) / mills_b).log() - length * (b + length / 2)
    nearer, farther = torch.where(slope < 0, 1 - p, p), torch.where(slope < 0, p, 1 - p)
    # two forms of the same number, each for the half of the mass where it keeps its digits
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
