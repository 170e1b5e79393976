"""Priors on the scale of a layer's weights: w = scale · z with z ~ N(0, 1).

A prior is any function of a layer that samples its hyper-parameters, on the layer's device, and returns a tensor that
broadcasts to the layer's matrix; ``lambda layer: torch.tensor(1.0)`` fixes the scale. The hyper-parameters here are all
gamma variables, for which the KL of a log-normal posterior has a closed form.
"""

from __future__ import annotations

__all__ = ["Scales", "layer_scale", "refuse_unfit_scales", "regularised_horseshoe"]

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Gamma, LogNormal, register_kl

from bmrs_pyro.network.generators import generators_kept
from bmrs_pyro.weights.layers import Layer

Scales = Callable[[Layer], Tensor]
"""Any function that samples the hyper-parameters of a layer and returns the scale of its weights."""


def refuse_unfit_scales(scales: Any, layers: Iterable[Layer]) -> None:
    """Refuse a prior whose scales, at a draw, are not positive or do not broadcast to the matrix of a layer.

    Raises:
        TypeError: it is no function, or gives no tensor.
        ValueError: a scale is not positive and finite, or has another shape.
    """
    if not callable(scales):
        raise TypeError(f"scales is {scales!r}; give a function of a layer, such as layer_scale")
    with generators_kept(), pyro.get_param_store().scope(), pyro.poutine.block(), torch.no_grad():
        for layer in layers:
            scale = scales(layer)
            if not isinstance(scale, Tensor):
                raise TypeError(
                    f"scales({layer.name!r}) is {scale!r}; give a tensor, such as torch.tensor(0.1)"
                )
            if not ((scale > 0) & scale.isfinite()).all():
                raise ValueError(
                    f"scales({layer.name!r}) holds {scale.min().item():g}; scales are positive and finite"
                )
            wide = len(scale.shape) > len(layer.shape)
            if wide or any(
                own not in (1, size) for own, size in zip(scale.shape[::-1], layer.shape[::-1], strict=False)
            ):
                raise ValueError(
                    f"scales({layer.name!r}) has shape {tuple(scale.shape)}, which does not broadcast to the layer's "
                    f"matrix {tuple(layer.shape)}"
                )


def layer_scale(layer: Layer) -> Tensor:
    """One learned scale per layer: c = κ/√u, u ~ Gamma(2, 2), with κ = 1 in the last layer, else 0.1.

    Reference:
        Marković, Friston and Kiebel 2023, section 3 and its published code.
    """
    precision: Tensor = pyro.sample(f"{layer.name}_precision", _gamma(layer, 2.0, 2.0))
    return (1.0 if layer.last else 0.1) * precision.rsqrt()


def regularised_horseshoe(layer: Layer, tau0: float = 0.01) -> Tensor:
    """One scale per weight: most scales are close to 0, none is much larger than the slab.

        γ_ij² = 1 / (c⁻² + 1/(τ_i λ_ij)²),   τ_i ~ HalfCauchy(τ₀),   λ_ij ~ HalfCauchy(1),   c⁻² ~ Gamma(2, 6)

    The last layer keeps all its weights and has a single scale, γ ~ HalfCauchy(1).

    Args:
        layer: rows i, columns j.
        tau0: τ₀, the prior median of τ_i; a smaller one shrinks more weights to 0.

    Reference:
        Piironen and Vehtari, "Sparsity information and regularization in the horseshoe and other shrinkage priors",
        2017, section 2.3.
    """
    if layer.last:
        return _squared_half_cauchy(layer, "tau", ()).sqrt()
    rows, columns = layer.shape
    slab: Tensor = pyro.sample(f"{layer.name}_slab", _gamma(layer, 2.0, 6.0))
    row = _squared_half_cauchy(layer, "tau", (rows, 1))
    weight = _squared_half_cauchy(layer, "lambda", (rows, columns))
    return (slab + 1 / (tau0**2 * row * weight)).rsqrt()


def _squared_half_cauchy(layer: Layer, name: str, shape: Sequence[int]) -> Tensor:
    """λ² = u/v with u, v ~ Gamma(½, 1), so that λ ~ HalfCauchy(1)."""
    gamma = _gamma(layer, 0.5, 1.0).expand([2, *shape])
    u, v = pyro.sample(f"{layer.name}_{name}", gamma.to_event(1 + len(shape)))
    return u / v


def _gamma(layer: Layer, concentration: float, rate: float) -> dist.Gamma:
    # filled on the device: copying the numbers from the CPU would make a GPU wait
    a, b = (torch.full((), value, device=layer.device) for value in (concentration, rate))
    return dist.Gamma(a, b)


@register_kl(LogNormal, Gamma)
def _kl_log_normal_gamma(q: LogNormal, p: Gamma) -> Tensor:
    """E_q[log q − log p], with log u ~ N(m, s²):  −½ log 2πes² − a log b + log Γ(a) − a m + b e^{m + s²/2}."""
    entropy = 0.5 * math.log(2 * math.pi * math.e) + q.scale.log()
    normaliser = p.concentration * p.rate.log() - torch.lgamma(p.concentration)
    return p.rate * q.mean - p.concentration * q.loc - entropy - normaliser
