"""Layers that compute their weights from others at every call, as plain layers with the computed weights."""

from __future__ import annotations

__all__ = ["plain_layer"]

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

_PLAIN: dict[Any, Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}
_CLOSE = 1e-3


def plain_layer(layer: nn.Module) -> nn.Module | None:
    """Return a layer that computes what a layer with weight norm, or that standardises its weights, does; else None."""
    return _without_weight_norm(layer) or _plain_convolution(layer)


def _without_weight_norm(layer: nn.Module) -> nn.Module | None:
    """Return a linear layer or convolution whose weight is the g v/‖v‖ that a layer computes."""
    if not isinstance(layer, nn.Linear | _ConvNd):
        return None
    kind, own = type(layer), vars(layer)
    hooks = {key: hook for key, hook in layer._forward_pre_hooks.items() if not isinstance(hook, WeightNorm)}
    if parametrize.is_parametrized(layer, "weight"):
        modules = layer.parametrizations
        assert isinstance(modules, nn.ModuleDict)
        if len(modules) > 1 or [type(one) for one in modules["weight"].children()] != [_WeightNorm]:
            return None
        kind = kind.__bases__[0]  # torch has made a class for this layer
    elif len(hooks) == len(layer._forward_pre_hooks):
        return None
    weight = nn.Parameter(layer.weight.detach().clone())
    plain = kind.__new__(kind)
    vars(plain).update({name: value for name, value in own.items() if name != "weight"})
    plain._forward_pre_hooks = OrderedDict(hooks)
    plain._modules = {}
    plain._parameters = {"weight": weight, "bias": layer._parameters["bias"]}
    return plain


@torch.no_grad()
def _plain_convolution(layer: nn.Module) -> _ConvNd | None:
    """Return a plain convolution that computes what a layer does, if the layer standardises its weights.

    A layer standardises its weights if it convolves with others, which do not change when its own are scaled and
    shifted. They are a function of all inputs' weights, so that no input could be removed exactly.

    Returns:
        The convolution, with weights of its own; None for other layers.
    """
    kind = next((kind for kind in _PLAIN if isinstance(layer, kind)), None)
    if kind is None or type(layer).forward is kind.forward or "weight" not in layer._parameters:
        return None
    if layer._forward_hooks or layer._forward_pre_hooks:
        return None
    assert isinstance(layer, _ConvNd)
    sides = [2 * dilation * size for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    x = torch.randn(1, layer.in_channels, *sides, generator=torch.Generator().manual_seed(0)).to(layer.weight)
    own = layer.weight.data
    try:
        weight, expected = _convolved(layer, x, _PLAIN[kind])
        if weight is layer.weight:
            return None
        # large, so that what is added to the variance does not count
        layer.weight.data = 1e3 * own
        large, _ = _convolved(layer, x, _PLAIN[kind])
        layer.weight.data = 2e3 * own + own.abs().max()
        shifted, _ = _convolved(layer, x, _PLAIN[kind])
    except Exception:  # whatever the layer's own code raises
        return None
    finally:
        layer.weight.data = own
    if not _close(large, shifted):
        return None
    plain: _ConvNd = kind(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        layer.groups, layer.bias is not None, layer.padding_mode, device="meta",
    )  # fmt: skip
    plain.weight = nn.Parameter(weight.clone(), layer.weight.requires_grad)
    plain.bias = layer.bias
    return plain.train(layer.training) if _close(expected, plain(x)) else None


def _convolved(layer: nn.Module, x: Tensor, function: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Return the weight by which a layer convolves, and its output."""
    with _Weights(function) as weights:
        out = layer(x)
    (weight,) = weights.found
    return weight, out


class _Weights(TorchFunctionMode):
    """Records the weights of convolutions."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.found = function, list[Tensor]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is self.function:
            self.found.append(args[1])
        return func(*args, **(kwargs or {}))


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _CLOSE * one.abs().max())
