"""Draws and entropy of truncated normals by erf, in closed form, unless they are far in a tail or nearly flat."""

from __future__ import annotations

__all__ = ["Central", "central_entropy", "central_gradients", "central_offset", "outside", "uniforms"]

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bmrs_pyro.distributions.quantile import branch_free

# Below either limit the closed forms are not used. The first is twice the mass inside a long interval with loc three
# scales outside. The second is a length in scales: on shorter intervals erf gives less than nine digits of the KL.
_LEAST_MASS = 0.0027
_LEAST_LENGTH = 0.32

_SQRT2 = math.sqrt(2.0)


class Central(NamedTuple):
    """A normal truncated to an interval, measured from loc in units of √2 scale; all float64."""

    edge: Tensor
    """The lower and the upper bound, `(2, ...)`."""
    error: Tensor
    """erf of the bounds."""
    height: Tensor
    """exp(−edge²), the density at the bounds relative to the density at loc."""
    mass: Tensor
    """Twice the mass inside the interval."""

    @classmethod
    def of(cls, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Central:
        """Describe N(loc, scale²) truncated to [low, high]; all are float64 and broadcast against each other."""
        edge = torch.stack(torch.broadcast_tensors(low - loc, high - loc)) / (scale * _SQRT2)
        error = edge.erf()
        return cls(edge, error, _height(edge), error[1] - error[0])


def outside(edge: Tensor, mass: Tensor) -> Tensor:
    """Return a mask of the distributions whose closed forms are inaccurate, from two fields of `Central`."""
    return (mass < _LEAST_MASS) | (edge[1] - edge[0] < _LEAST_LENGTH / _SQRT2)


def uniforms(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Return uniform numbers: float64 if dtype is float64, else float32 at least 2^−25 away from 0 and 1."""
    if dtype == torch.float64:
        return torch.rand(shape, dtype=dtype, device=device, generator=generator)
    numbers = torch.empty(shape, dtype=torch.float32, device=device)
    return numbers.uniform_(2**-25, 1 - 2**-25, generator=generator)


def central_offset(cut: Central, p: Tensor) -> Tensor:
    """Offset from loc, in units of √2 scale, below which the mass p lies; float64."""
    offset = torch.addcmul(cut.error[0], cut.mass, p.double()).erfinv_()
    return offset.clamp_(cut.edge[0], cut.edge[1])


def central_entropy(cut: Central, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E_q[log q(u)] with its derivatives with respect to loc and scale.

    With the bounds α and β in units of scale, the mass Z and a = φ(α)/Z, b = φ(β)/Z,

        E_q[log q(u)] = −log(√(2πe) scale Z) − r,    r = (α a − β b)/2.
    """
    ratio = cut.height * (math.sqrt(2 / math.pi) / cut.mass)
    pull = cut.edge * ratio
    r = (pull[0] - pull[1]) * (_SQRT2 / 2)
    slope = ratio * (r - 0.5 - cut.edge.square())
    by_loc = (slope[0] - slope[1]) / scale
    slope = slope * cut.edge
    by_scale = ((slope[0] - slope[1]) * _SQRT2 - 1) / scale
    constant = 0.5 * math.log(2 * math.pi * math.e) - math.log(2)
    return -((scale * cut.mass).log() + (r + constant)), by_loc, by_scale


def central_gradients(edge: Tensor, grad_u: Tensor, p: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Σ grad_u ∂u/∂loc and Σ grad_u ∂u/∂scale over draws u, at fixed p; see `truncated_log_normal_quantile`.

    Args:
        edge: The bounds, as in `Central`.
        grad_u: Gradient with respect to u, `(*draws, ...)`.
        p: Probabilities, of the same shape.
        offset: Offset of u from loc, in units of √2 scale.

    Returns:
        Both in the distributions' shape, float64.
    """
    shape = edge.shape[1:]
    by_loc, by_scale = grad_u.sum_to_size(shape), (grad_u * offset).sum_to_size(shape)
    # φ(0)/φ(ξ); clamped, because at p = 0 and 1 it is multiplied by zero and could be inf
    lifted = grad_u * offset.square().clamp_(max=80.0).exp_()
    below = _times(1 - p, lifted).sum_to_size(shape)
    ends = torch.stack((below, _times(lifted, p).sum_to_size(shape))) * _height(edge)
    by_loc = by_loc - (ends[0] + ends[1])
    ends = ends * edge
    return by_loc, (by_scale - (ends[0] + ends[1])) * _SQRT2


def _height(edge: Tensor) -> Tensor:
    return edge.square().neg_().exp_()


def _times(values: Tensor, other: Tensor) -> Tensor:
    """Multiply values that are not needed again: in their own memory, where no transform of torch.func forbids it."""
    return values * other if torch.compiler.is_compiling() or branch_free() else values.mul_(other)
