"""A network with Gaussian weights as a Pyro model of labelled data."""

from __future__ import annotations

__all__ = ["Draw", "WeightModel", "call_with", "run_network"]

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.params.param_store import StateDict
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.func import functional_call

from bmrs_pyro.inference.function_parameters import with_parameters
from bmrs_pyro.inference.likelihoods import Likelihood, as_likelihood, given_each
from bmrs_pyro.inference.observations import observed
from bmrs_pyro.network.gates import Gates
from bmrs_pyro.network.noisy import refuse_several_draws
from bmrs_pyro.training.options import refuse_no_number
from bmrs_pyro.weights.layers import Layer, weight_layers
from bmrs_pyro.weights.scales import Scales, layer_scale, refuse_unfit_scales


class Draw(NamedTuple):
    """The factors of one layer's weights: W = scale ∘ z."""

    layer: Layer
    scale: Tensor
    """Scale of the weights; broadcasts to the layer's matrix, 0 where a weight is pruned."""
    z: Tensor
    """Draw of the site ``layer.name``, ``(rows, columns)``."""


@effectful(type="network")
def run_network(net: nn.Module, draws: tuple[Draw, ...], x: Tensor) -> Tensor:
    """Run a network with the drawn weights; an effect handler may replace this by an estimator of lower variance."""
    weights: dict[str, Tensor] = {}
    for layer, scale, z in draws:
        weights |= layer.parameters(scale * z)
    return call_with(net, weights, x)


def call_with(net: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Any:
    """Return the network's output with other weights, by name, which other names of the same parameters get too."""
    return functional_call(net, {**weights, **_tied(net, weights)}, (x,), tie_weights=False)


def _tied(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by the other names that they have in other modules; a module used twice counts once.

    functional_call itself would lose the parameters of a module that is used twice.
    """
    names: dict[int, str] = {}
    found = {}
    for prefix, module in net.named_modules():
        for own, parameter in module._parameters.items():
            name = f"{prefix}.{own}" if prefix else own
            first = names.setdefault(id(parameter), name)
            if parameter is not None and first != name and first in weights:
                found[name] = weights[first]
    return found


class WeightModel(nn.Module):
    """p(y | x, W) p(W): the weights are non-centred Gaussians, the network's output feeds the likelihood.

        z_l ~ N(0, 1) elementwise,   W_l = c_l γ_l ∘ z_l,   y_i ~ likelihood(net(x_i; W))

    c_l has the prior ``scales``. Model reduction changes the gains γ_l: they start at 1 and are 0 for pruned weights.

    Args:
        net: any network; parameters that are not selected stay deterministic and are trained too.
        likelihood: a name, see :func:`as_likelihood`, or maps outputs to a distribution of batch shape ``(batch,)``.
            Its parameters are trained too, as those of :class:`SupervisedModel` are.
        num_data: N, the number of training examples; a batch of B examples counts N/B times.
        select: which parameters are random, by name; by default all that are not frozen (``requires_grad=False``).
        scales: prior of the scales c_l, such as :func:`layer_scale` or :func:`regularised_horseshoe`.

    Attributes:
        stored: parameters from Pyro's store that no module holds, such as a likelihood's, after :func:`fit_weights`.

    Raises:
        TypeError: ``net`` is no module, ``num_data`` no number, or ``scales`` no function that gives a tensor.
        ValueError: ``num_data`` is not positive, ``select`` picks no parameter, ``net`` has gains, or the scales of a
            layer are not positive or do not fit its shape.

    Reference:
        Marković, Friston and Kiebel, "Bayesian sparsification for deep neural networks with Bayesian model
        reduction", 2023, section 3.
    """

    gain: Tensor

    def __init__(
        self,
        net: nn.Module,
        likelihood: str | Likelihood,
        num_data: int,
        *,
        select: Callable[[str], bool] | None = None,
        scales: Scales = layer_scale,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"net is a {type(net).__name__}; give a network, an nn.Module")
        Gates.refuse_gated(net)
        refuse_no_number("num_data", num_data, least=1, whole=True)
        self.net = net
        self.likelihood = with_parameters(as_likelihood(likelihood), net)
        self.num_data = num_data
        self.layers = weight_layers(net, select)
        refuse_unfit_scales(scales, self.layers if pyro.distributions.is_validation_enabled() else ())
        self.scales = scales
        self.stored: StateDict = {"params": {}, "constraints": {}}
        like = next(net.parameters())
        total = sum(layer.shape.numel() for layer in self.layers)
        self.register_buffer("gain", torch.ones(total, dtype=like.dtype, device=like.device))

    @property
    def gains(self) -> dict[str, Tensor]:
        """γ of every layer by site name, ``(rows, columns)``, as views: writing to them sets γ."""
        parts = self.gain.split([layer.shape.numel() for layer in self.layers])
        return {layer.name: part.view(layer.shape) for layer, part in zip(self.layers, parts, strict=True)}

    @property
    def active(self) -> dict[str, Tensor]:
        """Which weights are not pruned, by site name, ``(rows, columns)``."""
        return {name: gain > 0 for name, gain in self.gains.items()}

    def draw(self) -> tuple[Draw, ...]:
        """Sample the scales and the weights of all layers; a guide needs the same sites."""
        gains = self.gains
        standard = dist.Normal(self.gain.new_zeros(()), 1.0)
        draws = []
        for layer in self.layers:
            scale = self.scales(layer) * gains[layer.name]
            z = pyro.sample(layer.name, standard.expand(layer.shape).to_event(2))
            draws.append(Draw(layer, scale, z))
        return tuple(draws)

    def output(self, x: Tensor) -> Tensor:
        """Return the network's output under a draw of the weights."""
        return run_network(self.net, self.draw(), x)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Sample W and y, or score the observed ``y`` of shape ``(batch, ...)``."""
        refuse_several_draws()
        if isinstance(self.likelihood, nn.Module):
            for name, parameter in self.likelihood.named_parameters():
                if parameter.requires_grad:
                    pyro.param(f"likelihood$$${name}", parameter)
        distribution = given_each(self.likelihood, self.output(x))
        if y is not None:
            y = observed(distribution, y)
        # with given indices, Pyro does not shuffle all N of them at every step
        indices = torch.arange(len(x))
        with pyro.plate("data", self.num_data, subsample=indices, dim=-1):
            return pyro.sample("y", distribution, obs=y)
