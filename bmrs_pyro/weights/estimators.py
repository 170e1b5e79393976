"""Gradient estimators as effect handlers: they replace the noise that a whole batch shares by noise per example.

    with Flipout():
        svi.step(x, y)

Training code, model and guide do not change. The mean of a layer's output under q stays the same. The correlation of
the noise between examples changes, and with it the variance of the gradient.
"""

from __future__ import annotations

__all__ = ["Estimator", "Flipout", "LocalReparameterization"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bmrs_pyro.weights.model import Draw, call_with

_LINEAR_MAPS = (functional.linear, torch.conv1d, torch.conv2d, torch.conv3d)
LinearMap = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Gaussian(NamedTuple):
    """A parameter with distribution N(loc, scale²) and a draw of it."""

    loc: Tensor
    scale: Tensor
    draw: Tensor


class Estimator(Messenger, ABC):
    """Replace the linear maps (linear, convolution) of a network whose weights were drawn from a Normal.

    Everything else (embeddings, normalisation, attention in one kernel) uses the plain draw.

    Raises:
        TypeError: weights were drawn from another distribution, such as a PointEstimate's, or outside of the block.
    """

    def __init__(self) -> None:
        super().__init__()
        self._distributions: dict[str, torch.distributions.Distribution] = {}

    @abstractmethod
    def output(self, linear: LinearMap, x: Tensor, weight: Gaussian, bias: Gaussian | None) -> Tensor:
        """Return a draw of ``linear(x, W, b)``, with the noise this estimator gives each example."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        distribution = msg["fn"]
        # a replayed value was drawn from the guide's distribution, which was recorded before
        if not msg["done"]:
            self._distributions[msg["name"]] = (
                distribution.base_dist
                if isinstance(distribution, torch.distributions.Independent)
                else distribution
            )

    def _pyro_network(self, msg: dict[str, Any]) -> None:
        net, draws, x = msg["args"]
        gaussians = self._gaussians(draws)
        weights = {name: gaussian.draw for name, gaussian in gaussians.items()}
        with _LinearMaps(self.output, gaussians.values()):
            msg["value"] = call_with(net, weights, x)
        msg["done"] = True

    def _gaussians(self, draws: Iterable[Draw]) -> dict[str, Gaussian]:
        found: dict[str, Gaussian] = {}
        for layer, scale, z in draws:
            distribution = self._distributions.get(layer.name)
            if not isinstance(distribution, torch.distributions.Normal):
                how = "elsewhere" if distribution is None else f"from a {type(distribution).__name__}"
                raise TypeError(
                    f"site {layer.name!r} was drawn {how}; {type(self).__name__} needs the Normal that a MeanField "
                    "guide draws within its block; use no estimator with another guide"
                )
            parts = [layer.parameters(scale * part) for part in (distribution.loc, distribution.scale, z)]
            found |= {name: Gaussian(*(part[name] for part in parts)) for name in layer.shapes}
        return found


class LocalReparameterization(Estimator):
    """Draw outputs, not weights: a = N(x μᵀ, x² σ²ᵀ), independently for every output of every example.

    Exact if a layer is applied once per example. If it is applied at many positions (convolution, tokens), every
    position gets its own noise: each output has the right distribution, but positions are not correlated.

    Reference:
        Kingma, Salimans and Welling, "Variational Dropout and the Local Reparameterization Trick", 2015, section 2.2.
    """

    def output(self, linear: LinearMap, x: Tensor, weight: Gaussian, bias: Gaussian | None) -> Tensor:
        """Return mean + √variance · ε."""
        loc = linear(x, weight.loc, bias.loc if bias else None)
        variance = linear(x.square(), weight.scale.square(), bias.scale.square() if bias else None)
        # √ has no finite gradient at 0 (all weights of an output pruned); fast convolutions may round below 0
        return loc + variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt() * torch.randn_like(loc)


class Flipout(Estimator):
    """Flip the signs of one shared perturbation: a = x μᵀ + ((x ∘ s) (W − μ)ᵀ) ∘ r, with random signs s, r per example.

    Every example sees weights of the right distribution, shared by all positions. The perturbations of two examples are
    uncorrelated.

    Reference:
        Wen et al., "Flipout: Efficient Pseudo-Independent Weight Perturbations on Mini-Batches", 2018, eq. 4.
    """

    def output(self, linear: LinearMap, x: Tensor, weight: Gaussian, bias: Gaussian | None) -> Tensor:
        """Return mean + perturbation."""
        channel = x.dim() - 1 if linear.func is functional.linear else 1  # type: ignore[attr-defined]
        loc = linear(x, weight.loc, bias.loc if bias else None)
        noise = linear(x * _signs(x, channel), weight.draw - weight.loc, None)
        if bias:
            shape = [1] * loc.dim()
            shape[channel] = -1
            noise = noise + (bias.draw - bias.loc).view(shape)
        return loc + noise * _signs(loc, channel)


def _signs(like: Tensor, channel: int) -> Tensor:
    """Random signs per example and channel, shared by all positions."""
    shape = [1] * like.dim()
    shape[0], shape[channel] = like.shape[0], like.shape[channel]
    return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(0.5).mul_(2).sub_(1)


class _LinearMaps(TorchFunctionMode):
    """Hand linear maps with known Gaussian weights to an estimator, within this block and thread only."""

    def __init__(self, output: Callable[..., Tensor], gaussians: Iterable[Gaussian]) -> None:
        super().__init__()
        self.run = output
        self.known = {id(gaussian.draw): gaussian for gaussian in gaussians}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _LINEAR_MAPS and (call := _Call(func, *args, **(kwargs or {}))).weight_id in self.known:
            return self.run(call, call.input, self.known[call.weight_id], self._bias(call.bias))
        return func(*args, **(kwargs or {}))

    def _bias(self, bias: Tensor | None) -> Gaussian | None:
        if bias is None:
            return None
        return self.known.get(id(bias), Gaussian(bias, torch.zeros_like(bias), bias))


class _Call:
    """A linear map with the settings of one call (stride, padding, ...), to be called with other tensors."""

    def __init__(
        self,
        func: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **options: Any,
    ) -> None:
        self.func, self.input, self.bias, self.weight_id = func, input, bias, id(weight)
        self.rest, self.options = rest, options

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.func(x, weight, bias, *self.rest, **self.options)
