"""Model reduction between Gaussians: ΔF and the posterior under the reduced prior, both in closed form."""

from __future__ import annotations

__all__ = ["reduced_posterior"]

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from bmrs_pyro.reduction.evidence import register_delta_f


class _Exchange(NamedTuple):
    """The moments of q and p relative to the mean of p̃, so that nothing cancels when p̃ is narrow."""

    q_mean: Tensor
    q_precision: Tensor
    p_mean: Tensor
    p_precision: Tensor
    variance: Tensor
    """γ², the variance of p̃."""
    growth: Tensor
    """M = γ²(1/σ_q² − 1/σ_p²) + 1, the precision of q̃ in units of p̃'s; q̃ exists where M > 0."""

    @property
    def shift(self) -> Tensor:
        """μ_q/σ_q² − μ_p/σ_p², the precision of the likelihood times its mean."""
        return self.q_mean * self.q_precision - self.p_mean * self.p_precision


def reduced_posterior(posterior: Normal, prior: Normal, reduced: Normal) -> Normal:
    """The posterior q̃ ∝ q p̃/p that the reduced prior would have given, without fitting again.

        q̃ = N(μ̃, γ²/M),   μ̃ = μ_p̃ + γ²/M · ((μ_q − μ_p̃)/σ_q² − (μ_p − μ_p̃)/σ_p²),   M = γ²(1/σ_q² − 1/σ_p²) + 1

    Args:
        posterior: q = N(μ_q, σ_q²), fitted under `prior`.
        prior: p = N(μ_p, σ_p²).
        reduced: p̃ = N(μ_p̃, γ²).

    Returns:
        q̃, float64.

    Raises:
        ValueError: q is so much wider than p that q p̃/p cannot be normalised.

    Reference:
        Marković, Friston and Kiebel, "Bayesian sparsification for deep neural networks with Bayesian model
        reduction", 2023, section 3; Friston and Penny, "Post hoc Bayesian model selection", 2011, eq. 10.
    """
    exchange = _exchange(posterior, prior, reduced)
    if (impossible := exchange.growth <= 0).any():
        raise ValueError(
            f"{int(impossible.sum())} posteriors are wider than their prior, so that no posterior under the "
            "reduced prior exists: train longer, or limit their scale to the prior's"
        )
    variance = exchange.variance / exchange.growth
    return Normal(reduced.loc.double() + variance * exchange.shift, variance.sqrt())


@register_delta_f(Normal, Normal, Normal)
def _delta_f_normal(q: Normal, p: Normal, reduced: Normal) -> Tensor:
    """ΔF = ½ log(σ_p²/σ_q²) − ½ log M − ½(μ_q²/σ_q² − μ_p²/σ_p²) + ½ γ²/M (μ_q/σ_q² − μ_p/σ_p²)², means from μ_p̃.

    Infinite where M ≤ 0: there E_q[p̃/p] diverges.
    """
    exchange = _exchange(q, p, reduced)
    growth = exchange.growth.clamp(min=0)
    energy = exchange.q_mean.square() * exchange.q_precision - exchange.p_mean.square() * exchange.p_precision
    gain = exchange.variance / growth * exchange.shift.square()
    change = (exchange.q_precision.log() - exchange.p_precision.log() - growth.log() - energy + gain) / 2
    return change.where(growth > 0, torch.inf)


def _exchange(q: Normal, p: Normal, reduced: Normal) -> _Exchange:
    origin, variance = reduced.loc.double(), reduced.scale.double().square()
    q_precision, p_precision = q.scale.double() ** -2, p.scale.double() ** -2
    return _Exchange(
        q.loc.double() - origin,
        q_precision,
        p.loc.double() - origin,
        p_precision,
        variance,
        variance * (q_precision - p_precision) + 1,
    )
