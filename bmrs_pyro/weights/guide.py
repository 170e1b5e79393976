"""Guides for Gaussian weights: mean-field posteriors with closed-form KL, and the point estimate."""

from __future__ import annotations

__all__ = ["MeanField", "PointEstimate", "PriorProgram", "refuse_other_guide"]

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from bmrs_pyro.distributions import unwrapped
from bmrs_pyro.weights.layers import Layer

PriorProgram = Callable[[], Any]
"""A Pyro program without arguments that samples the latent sites, such as ``WeightModel.draw``."""


class _Guide(PyroModule):
    """Latent sites whose locations are packed into one tensor; a positive site is modelled by its logarithm."""

    loc: Any  # a PyroParam, which reads as a tensor

    def __init__(self, prior: PriorProgram, *, init_radius: float = 2.0) -> None:
        super().__init__()
        if isinstance(prior, nn.Module):
            raise TypeError(
                f"prior is a {type(prior).__name__}; give a program without arguments, such as model.draw of a "
                "WeightModel"
            )
        with torch.no_grad(), poutine.block():
            sites: dict[str, Any] = dict(poutine.trace(prior).get_trace().iter_stochastic_nodes())
        if not sites:
            raise ValueError(
                "the prior samples nothing, so there is nothing to fit; give a program with pyro.sample"
            )
        values = {name: site["value"] for name, site in sites.items()}
        self.shapes = {name: value.shape for name, value in values.items()}
        supports = {name: unwrapped(site["fn"]).base.support for name, site in sites.items()}
        self.positive = {name for name, support in supports.items() if support is not constraints.real}
        for name, value in values.items():
            radius = 0.0 if name in self.positive else init_radius
            values[name] = torch.empty_like(value).uniform_(-radius, radius)
        self.loc = PyroParam(torch.cat([value.flatten() for value in values.values()]))

    def distributions(self) -> dict[str, dist.TorchDistribution]:
        """Return the distribution of every latent site."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every latent site; the model's arguments are ignored."""
        return {name: pyro.sample(name, distribution) for name, distribution in self.distributions().items()}

    def medians(self) -> dict[str, Tensor]:
        """Return the median of every latent site; for a real site it is the mean, for a point estimate its value."""
        locs = self.split(self.loc)
        return {name: loc.exp() if name in self.positive else loc for name, loc in locs.items()}

    def split(self, packed: Tensor) -> dict[str, Tensor]:
        """Split a packed tensor into the sites' parts: views of their shapes."""
        parts = packed.split([shape.numel() for shape in self.shapes.values()])
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class MeanField(_Guide):
    """q = Π N(loc, scale²), over log u for a positive variable u; every KL has a closed form.

    Two tensors, ``loc`` and ``scale``, hold the parameters of all sites; a mask, ``active``, says which are trained.

    Args:
        prior: samples the latent sites: ``model.draw`` of a :class:`WeightModel`, or any Pyro program.
        init_radius: real locations start uniform in ±init_radius, locations of logarithms start at 0.
        init_scale: initial value of every scale.

    Raises:
        TypeError: ``prior`` is a module.
        ValueError: ``init_scale`` is not positive, or the prior samples nothing.
    """

    scale: Any
    active: Tensor

    def __init__(self, prior: PriorProgram, *, init_radius: float = 2.0, init_scale: float = 0.1) -> None:
        super().__init__(prior, init_radius=init_radius)
        if not init_scale > 0:
            raise ValueError(f"init_scale is {init_scale}; it must be positive")
        self.scale = PyroParam(torch.full_like(self.loc, init_scale).detach(), constraints.softplus_positive)
        self.register_buffer("active", torch.ones_like(self.loc, dtype=torch.bool))

    def distributions(self) -> dict[str, dist.TorchDistribution]:
        """Return a Normal or LogNormal per site, its dimensions as one event."""
        # inactive entries get their prior, N(0, 1), and no gradient
        locs = self.split(self.loc.where(self.active, 0.0))
        scales = self.split(self.scale.where(self.active, 1.0))
        return {
            name: (dist.LogNormal if name in self.positive else dist.Normal)(loc, scales[name]).to_event()
            for name, loc in locs.items()
        }

    @torch.no_grad()
    def set_(self, name: str, distribution: torch.distributions.Normal, active: Tensor) -> None:
        """Overwrite a real site's posterior and its ``active`` mask in place; the Parameter objects stay.

        Raises:
            KeyError: the guide has no such site.
        """
        if name not in self.shapes:
            raise KeyError(f"no site {name!r}; the guide has {', '.join(self.shapes)}")
        loc, scale = self.loc.detach().clone(), self.scale.detach().clone()
        self.split(loc)[name].copy_(distribution.loc)
        self.split(scale)[name].copy_(distribution.scale)
        self.split(self.active)[name].copy_(active)
        self.loc, self.scale = loc, scale


class PointEstimate(_Guide):
    """The most probable values (MAP) of all latent sites; use with :class:`pyro.infer.Trace_ELBO`.

    Args:
        prior: samples the latent sites.
        init_radius: real values start uniform in ±init_radius, positive values start at 1.
    """

    def distributions(self) -> dict[str, dist.TorchDistribution]:
        """Return a Delta per site, its dimensions as one event."""
        return {name: dist.Delta(value, event_dim=value.dim()) for name, value in self.medians().items()}


def refuse_other_guide(layers: Iterable[Layer], guide: object) -> None:
    """Refuse a guide that is no module, or whose posteriors are those of other layers.

    Raises:
        TypeError: the guide is no module.
        ValueError: a layer's weights have no posterior in a guide of this package, or one of another shape.
    """
    if not isinstance(guide, nn.Module):
        raise TypeError(f"guide is {guide!r}; give a guide, such as MeanField(model.draw)")
    if isinstance(guide, _Guide):
        for layer in layers:
            if (shape := guide.shapes.get(layer.name)) != layer.shape:
                raise ValueError(
                    f"the guide is another model's: for {layer.name} of shape {tuple(layer.shape)} it has "
                    + ("nothing" if shape is None else f"shape {tuple(shape)}")
                )
