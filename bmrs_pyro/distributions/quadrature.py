"""Gauss–Legendre nodes and weights on the unit interval."""

from __future__ import annotations

__all__ = ["gauss_legendre"]

from functools import cache

import numpy as np
import torch
from torch import Tensor


@cache
def gauss_legendre(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rule ∫₀¹ f(x) dx ≈ Σᵢ wᵢ f(xᵢ), exact for polynomials of degree below 2·count.

    Args:
        count: Number of nodes.
        device: Where the rule is to be used; it is built once per device.

    Returns:
        Nodes and weights, each of shape `(count,)` in float64.
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2).to(device), torch.from_numpy(weights / 2).to(device)
