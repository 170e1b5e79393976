"""The automatic guide: a truncated log-normal posterior for every gain."""

from __future__ import annotations

__all__ = ["AutoTruncatedLogNormal"]

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.distributions.central import uniforms
from bmrs_pyro.distributions.joint_draw import EAGER, Kernels, draw_with_kl
from bmrs_pyro.inference.laplace import Curvature, laplace_parameters
from bmrs_pyro.inference.model import Inputs, SupervisedModel
from bmrs_pyro.inference.packing import Pack
from bmrs_pyro.network.removal import replace_values_

MOST = 80
"""Largest absolute value of an initial loc or log scale, whose exponential is a float32 number."""


class AutoTruncatedLogNormal(AutoGuide):
    """q(θ) = Π_c TruncatedLogNormal(loc_c, scale_c, low, high) on the prior's interval.

    The parameters of all families lie in two tensors, ``loc`` and ``scale`` of shape ``(Σ C_f,)``, in the
    order of the network's structures: a training step makes one draw and one KL, and still shows one Pyro
    site per family. The parameters exist from the start, so that a state dict can be loaded before the first call.

    Args:
        model: the model whose gains the guide approximates.
        init_loc: initial value of every loc, in log θ; 0 puts the mode at a gain of 1.
        init_log_scale: initial value of every log scale (the reference code's -5).

    Attributes:
        kernels: how a training step computes the draw's gradient and the KL, eagerly or compiled.

    Raises:
        TypeError: ``model`` is not a SupervisedModel.
        ValueError: an initial value is no number between −80 and 80.
        RuntimeError: at a call, if Pyro's parameter store holds another guide's parameters under the same names.

    Reference: Neklyudov et al., NIPS 2017, section 3.2.
    """

    _model: Any  # (model,), or None if the guide was unpickled
    loc: Tensor
    loc_unconstrained: Tensor
    scale: Tensor
    _initial: tuple[float, float] | None = None

    def __init__(
        self, model: SupervisedModel, *, init_loc: float = 0.0, init_log_scale: float = -5.0
    ) -> None:
        if not isinstance(model, SupervisedModel):
            raise TypeError(
                f"model is a {type(model).__name__}; AutoTruncatedLogNormal reads families, prior and plates of a "
                "SupervisedModel: for a hand-written model write the guide by hand too, as models/lenet5.py does"
            )
        for name, value in (("init_loc", init_loc), ("init_log_scale", init_log_scale)):
            if not (isinstance(value, Real) and abs(value) <= MOST):
                raise ValueError(f"{name} is {value!r}; give a number between {-MOST} and {MOST}")
        super().__init__(model)
        self.kernels: Kernels = EAGER
        self._scales: tuple[list[float], Tensor] | None = None
        like = next(model.network.parameters())
        shape = (sum(self.sizes),)
        # Pyro turns these into parameters; reading one gives a tensor, as annotated
        loc = torch.full(shape, init_loc, dtype=like.dtype, device=like.device)
        self.loc = PyroParam(loc)  # type: ignore[assignment]
        scale = torch.full_like(loc, math.exp(init_log_scale))
        self.scale = PyroParam(scale, constraints.positive)  # type: ignore[assignment]
        self._initial = init_loc, init_log_scale

    @classmethod
    def from_laplace(
        cls, model: SupervisedModel, loader: Iterable[Any], *, batches: int | None = None
    ) -> AutoTruncatedLogNormal:
        """Approximate the posteriors without training, from one pass of gradients: loc 0, scale I_c^−½, truncated.

        I_c = Σ_i (∂ log p(y_i | x_i, θ)/∂θ_c)² at θ = 1 is the empirical Fisher information of log θ_c for N examples.
        This is Laplace's approximation for weights that fit the data. It treats every gain alone, as the mean-field
        guide does, and takes the log-likelihood to be quadratic in θ. If that gives a better free energy, a posterior
        is the prior instead (the data say nothing about the gain), or is centred on the mode of the quadratic. With a
        KL weight λ other than 1 the scale is (λ/I_c)^½, the value that SVI would find. Evidence and criteria work with
        these posteriors at once, and SVI can continue from them.

        Args:
            model: the model, with a trained network.
            loader: batches as for :func:`fit`.
            batches: maximum number of batches to read; all by default.

        Raises:
            ValueError: there are no examples.

        Reference: MacKay, Neural Computation 1992, section 3; Kunstner, Hennig and Balles, NeurIPS 2019, on the
        empirical Fisher information.
        """
        return cls.from_curvature(model, Curvature.of(model, loader, batches))

    @classmethod
    def from_curvature(cls, model: SupervisedModel, curvature: Curvature) -> AutoTruncatedLogNormal:
        """Make the posteriors of :meth:`from_laplace` from a known curvature of the log-likelihood."""
        guide = cls(model)
        loc, scale = laplace_parameters(curvature, model.prior, guide._kl_scales(guide.loc.detach()))
        guide.loc, guide.scale = loc.to(guide.loc), scale.to(guide.scale)
        return guide

    @property
    def model(self) -> SupervisedModel:
        """The model whose gains the guide approximates; a pickle holds none."""
        if self._model is None:
            raise RuntimeError(
                "the guide was unpickled, and a pickle does not hold its model: make AutoTruncatedLogNormal(model), "
                "and set its loc and scale to this guide's"
            )
        return self._model[0]

    def __getstate__(self) -> dict[str, Any]:
        model = self._model
        try:
            return dict(super().__getstate__())
        finally:  # Pyro takes the model away from the guide that is copied, too
            self._model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> AutoTruncatedLogNormal:
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        copied._model = copy.deepcopy(self._model, memo)
        return copied

    @property
    def names(self) -> tuple[str, ...]:
        """The site names, in packed order."""
        return tuple(structure.name for structure in self.model.structures)

    @property
    def sizes(self) -> tuple[int, ...]:
        """C_f of every family, in packed order."""
        return tuple(structure.size for structure in self.model.structures)

    def forward(self, x: Inputs, y: Tensor | None = None) -> dict[str, Tensor]:
        """Sample θ of every family, ``(draws, C_f)`` or ``(C_f,)``, keyed by site name."""
        self._refuse_foreign_parameters()
        joint = self._joint()
        prior = self.model.prior_on(joint.loc.device)
        theta, divergence = draw_with_kl(joint.loc, joint.scale, prior, self._uniforms(x), self.kernels)
        sites = Pack(joint, self.sizes, theta, prior, divergence).sites()
        with self.model.latent(sites[0].batch_shape):
            return {name: pyro.sample(name, site) for name, site in zip(self.names, sites, strict=True)}

    def draw(self, x: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """Sample θ and compute the KL: from the same random numbers as a call, but without Pyro sites.

        Returns:
            θ by site name, ``(draws, C_f)`` or ``(C_f,)``, and the weighted KL of all families, in nats.
        """
        with self._pyro_context:  # as in a call: loc and scale are registered as parameters
            self._refuse_foreign_parameters()
            loc, scale = self.loc, self.scale
        prior = self.model.prior_on(loc.device)
        theta, divergence = draw_with_kl(loc, scale, prior, self._uniforms(x), self.kernels)
        values = dict(zip(self.names, theta.split(self.sizes, -1), strict=True))
        return values, self._kl_scales(divergence).dot(divergence)

    def posteriors(self) -> dict[str, TruncatedLogNormal]:
        """Return the posterior of every family with batch shape ``(C_f,)``, detached from the guide.

        Raises:
            RuntimeError: the guide is as it was made, and Pyro's parameter store holds other values of its name.
        """
        with torch.no_grad():
            if self._initial is not None and self._is_at(*self._initial):
                self._refuse_foreign_parameters()
            joint = self._joint()
            return {
                name: TruncatedLogNormal(loc.clone(), scale, joint.low, joint.high)
                for name, loc, scale in zip(
                    self.names, joint.loc.split(self.sizes), joint.scale.split(self.sizes), strict=True
                )
            }

    def median(self, x: Inputs | None = None, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return the posterior median of every gain, ``(C_f,)`` per site."""
        return {name: value[0] for name, value in self.quantiles([0.5]).items()}

    def quantiles(self, quantiles: Sequence[float]) -> dict[str, Tensor]:
        """Return posterior quantiles of every gain, ``(len(quantiles), C_f)`` per site."""
        levels = torch.tensor(quantiles, dtype=self.loc.dtype, device=self.loc.device).unsqueeze(-1)
        return {name: posterior.icdf(levels) for name, posterior in self.posteriors().items()}

    def shrink_(self, keep: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
        """Drop the posteriors of removed structures in place; called after the network has shrunk.

        Args:
            keep: mask ``(C_f,)`` per family that shrank, True for the structures that stay.
            sizes: C_f of every family before the removal.

        Returns:
            the kept positions in the packed parameters, to index other tensors with one entry per structure.
        """
        masks = [keep.get(name, torch.ones(size, dtype=torch.bool)).cpu() for name, size in sizes.items()]
        index = torch.cat(masks).nonzero().squeeze(-1).to(self.loc.device)
        for parameter in self.parameters(recurse=False):
            # the Parameter objects stay: the parameter store, the optimiser and its groups refer to them by identity
            replace_values_(parameter, parameter.data[index])
        return index

    def _kl_scales(self, like: Tensor) -> Tensor:
        """The KL weight of every structure, ``(Σ C_f,)``, computed again when weights, structures or device change."""
        weights = [self.model.kl_scales[name] for name in self.names]
        if (
            self._scales is None
            or self._scales[0] != weights
            or not _same_shape_and_device(self._scales[1], like)
        ):
            sizes = torch.tensor(self.sizes, device=like.device)
            self._scales = weights, like.new_tensor(weights).repeat_interleave(sizes)
        return self._scales[1]

    def _is_at(self, loc: float, log_scale: float) -> bool:
        near = torch.full_like(self.loc, loc), torch.full_like(self.scale, math.exp(log_scale))
        return torch.equal(self.loc, near[0]) and torch.allclose(self.scale, near[1])

    def _refuse_foreign_parameters(self) -> None:
        # Pyro would silently replace the guide's tensor by a stored one of the same name
        store = pyro.get_param_store()
        for name in ("loc", "scale"):
            stored = f"{self._pyro_name}.{name}" if self._pyro_name else name
            if stored in store and store.param_name(getattr(self, f"{name}_unconstrained")) != stored:
                raise RuntimeError(
                    f"Pyro's parameter store holds another tensor as {stored!r}: a second guide in one process, or a "
                    "loaded store. Call pyro.clear_param_store(); to use stored values, set guide.loc and guide.scale "
                    "to them first"
                )

    def _uniforms(self, x: Inputs) -> Tensor:
        """Return the uniform numbers that a batch's gains are drawn from, ``(*draws, Σ C_f)``."""
        like, batch = self.loc_unconstrained, self.model.global_batch
        if batch is not None:
            return batch.uniforms(self.model.draw_count(x), like.shape, like.dtype)
        return uniforms((*self.model.draw_shape(x), *like.shape), like.dtype, like.device)

    def _joint(self) -> TruncatedLogNormal:
        prior = self.model.prior
        return TruncatedLogNormal(self.loc, self.scale, prior.low, prior.high)


def _same_shape_and_device(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.device == other.device
