"""The gains of a network as Pyro sites, for models and guides that are written by hand."""

from __future__ import annotations

__all__ = ["posterior_gains", "prior_gains"]

import math

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.network import NoisyNetwork

_LOW, _HIGH = math.exp(-20.0), 1.0


def prior_gains(net: NoisyNetwork, batch: int) -> dict[str, Tensor]:
    """Sample the gains from their prior, in a model: θ ~ LogUniform(e^-20, 1), one draw per example.

    Args:
        net: the network; its families name the sites.
        batch: number of examples.

    Returns:
        gains ``(batch, C)`` by family, for ``net(x, theta)``.
    """
    theta = {}
    # the plate repeats every gain for each example, and the scale makes its KL count once
    with pyro.plate("draws", batch, dim=-1), poutine.scale(scale=1 / batch):
        for family in net.structures:
            prior = LogUniform(_LOW, _HIGH).expand([family.size])
            theta[family.name] = pyro.sample(family.name, prior.to_event(1))
    return theta


def posterior_gains(net: NoisyNetwork, batch: int) -> None:
    """Sample the gains from their posterior, in a guide: θ ~ TruncatedLogNormal(loc, scale, e^-20, 1).

    Pyro's parameter store holds ``NAME.loc`` and ``NAME.scale`` of log θ for every family.

    Args:
        net: the network; its families name the sites.
        batch: number of examples.
    """
    with pyro.plate("draws", batch, dim=-1), poutine.scale(scale=1 / batch):
        for family in net.structures:
            loc = pyro.param(f"{family.name}.loc", torch.zeros(family.size))
            start = torch.full((family.size,), math.exp(-5.0))
            scale = pyro.param(f"{family.name}.scale", start, constraint=constraints.positive)
            pyro.sample(family.name, TruncatedLogNormal(loc, scale, _LOW, _HIGH).to_event(1))
