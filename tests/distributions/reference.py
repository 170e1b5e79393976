"""Oracles: the reference file and the truncated log-normal at 50 digits."""

from __future__ import annotations

__all__ = ["cdf", "cdf_gradient", "kl", "log_z", "moment", "reference"]

import json
from pathlib import Path

import mpmath as mp
import pytest
import torch
from torch import Tensor

FILE = Path(__file__).parents[3] / "shared" / "reference" / "truncated_log_normal.json"
mp.mp.dps = 50


def reference(key: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """One column of the 200 reference cases."""
    if not FILE.exists():
        pytest.skip(f"{FILE} is absent")
    cases = json.loads(FILE.read_text())["cases"]
    return torch.tensor([float(case[key]) for case in cases], dtype=dtype)


def _mass(low: mp.mpf, high: mp.mpf) -> mp.mpf:
    return mp.ncdf(-low) - mp.ncdf(-high) if low > 0 else mp.ncdf(high) - mp.ncdf(low)


def log_z(loc: float, scale: float, low: float, high: float) -> mp.mpf:
    loc, scale = mp.mpf(loc), mp.mpf(scale)
    return mp.log(_mass((mp.log(low) - loc) / scale, (mp.log(high) - loc) / scale))


def cdf(theta: mp.mpf, loc: mp.mpf, scale: mp.mpf, low: mp.mpf, high: mp.mpf) -> mp.mpf:
    alpha, xi, beta = ((mp.log(t) - mp.mpf(loc)) / mp.mpf(scale) for t in (low, theta, high))
    return _mass(alpha, xi) / _mass(alpha, beta)


def cdf_gradient(theta: float, loc: float, scale: float, low: mp.mpf, high: mp.mpf) -> list[mp.mpf]:
    """∂F/∂θ, ∂F/∂loc and ∂F/∂scale by central differences."""
    point = [mp.mpf(theta), mp.mpf(loc), mp.mpf(scale), low, high]
    step = mp.mpf(10) ** -20
    slopes = []
    for axis in range(3):
        up, down = list(point), list(point)
        up[axis], down[axis] = point[axis] + step, point[axis] - step
        slopes.append((cdf(*up) - cdf(*down)) / (2 * step))
    return slopes


def moment(power: int, loc: float, scale: float, low: float, high: float) -> mp.mpf:
    """E[θ^power]: a tilted normal is a shifted normal."""
    loc, scale = mp.mpf(loc), mp.mpf(scale)
    shifted = log_z(loc + power * scale**2, scale, low, high)
    return mp.exp(power * loc + (power * scale) ** 2 / 2 + shifted - log_z(loc, scale, low, high))


def kl(loc: float, scale: float, low: float, high: float) -> mp.mpf:
    """KL to LogUniform(low, high), by the textbook formula that float64 cannot afford."""
    loc, scale = mp.mpf(loc), mp.mpf(scale)
    alpha, beta = ((mp.log(t) - loc) / scale for t in (low, high))
    z = _mass(alpha, beta)
    edge = (alpha * mp.npdf(alpha) - beta * mp.npdf(beta)) / (2 * z)
    return mp.log(mp.log(high) - mp.log(low)) - mp.log(scale * mp.sqrt(2 * mp.pi * mp.e) * z) - edge
