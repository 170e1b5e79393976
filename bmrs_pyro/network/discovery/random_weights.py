"""Give a network random weights under which its outputs respond to all its layers."""

from __future__ import annotations

__all__ = ["LARGEST", "Recipe", "livened", "noise", "randomise_", "root_mean_square"]

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from bmrs_pyro.network.untouched import forget_

Recipe = Literal["lively", "own", "given"]


@torch.no_grad()
def randomise_(
    net: nn.Module,
    recipe: Recipe,
    dtype: torch.dtype,
    random: torch.Generator,
    cut: Collection[str] = (),
) -> None:
    """Give a network random parameters, and batch norms random statistics, in new tensors.

    Args:
        net: the network.
        recipe: ``"lively"`` keeps the signal's size from layer to layer, with biases and scales about 1 and few silent
            units; ``"own"`` keeps the size of every tensor; ``"given"`` only adds a tenth of noise to vectors.
        dtype: type of all floating-point parameters and buffers, and of the parts of complex ones.
        random: generator of the values.
        cut: names of tensors that may be cut; buffers among them get other values too, as in training.
    """
    done: set[int] = set()
    for path, module in net.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if (
                tensor is None
                or id(tensor) in done
                or not (tensor.is_floating_point() or tensor.is_complex())
            ):
                continue
            done.add(id(tensor))
            if tensor.is_complex():
                parts = torch.view_as_real(tensor.data).to(dtype)
                parts = _fresh(name, parts, recipe, random) if isinstance(tensor, nn.Parameter) else parts
                tensor.data = torch.view_as_complex(parts)
                continue
            if recipe == "lively" and name == "weight" and isinstance(module, nn.Linear | _ConvNd):
                tensor.data = noise(tensor, random, (tensor.numel() / tensor.shape[0]) ** -0.5, dtype)
            elif isinstance(tensor, nn.Parameter) or (
                recipe != "given" and (name.startswith("running_") or f"{path}.{name}".lstrip(".") in cut)
            ):
                tensor.data = _fresh(name, tensor.data.to(dtype), recipe, random)
            else:
                tensor.data = tensor.data.to(dtype)
    forget_(net)


@contextmanager
def livened(net: nn.Module) -> Iterator[None]:
    """Within the context, a layer's first call shifts its biases: the mean of each channel becomes its old bias.

    With biases about 1, few channels are silent behind a ReLU, or where an activation is constant.
    """

    def liven(layer: nn.Module, _: Any, output: Any) -> Any:
        bias = layer.bias
        if layer in done or not isinstance(output, Tensor) or not isinstance(bias, Tensor):
            return output
        done.add(layer)
        own = (
            -1 - len(getattr(layer, "kernel_size", ()))
            if not isinstance(layer, _BatchNorm)
            else 1 - output.dim()
        )
        by_channel = output.movedim(own, 0)
        mean = by_channel.reshape(len(by_channel), -1).mean(1)
        shift = bias.detach() - mean
        bias.data = bias.data + shift
        return output + shift.reshape(-1, *(1,) * (-1 - own))

    done: set[nn.Module] = set()
    hooks = [
        layer.register_forward_hook(liven)
        for layer in net.modules()
        if isinstance(layer, nn.Linear | _ConvNd | _BatchNorm)
        and isinstance(layer.bias, nn.Parameter)
        # other layers, and hooks, may change the output after the bias
        and type(layer).__module__.startswith("torch.nn.modules.")
        and not layer._forward_hooks
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _fresh(name: str, values: Tensor, recipe: Recipe, random: torch.Generator) -> Tensor:
    size = root_mean_square(values)
    vector = values.dim() < 2 or values.numel() == max(values.shape)
    constant = bool((values == values.flatten()[:1]).all())
    if recipe == "given":
        return values + noise(values, random, 0.1 * size) if vector or constant else values
    if name == "running_mean" and recipe == "lively":
        return noise(values, random, 0.5)
    if name == "running_var" and recipe == "own":
        return values.abs().mean() * _about_one(values, random)
    if vector:
        # the zeros and the tiny scales of a fresh network would hide what a trained network does
        lively = recipe == "lively" or constant
        return _about_one(values, random) if lively else values + noise(values, random, 0.3 * size)
    fresh = noise(values, random, size)
    return fresh if bool((values < 0).any()) else fresh.abs()  # some layers take its square root


LARGEST = 3**0.5
"""Largest noise, in units of its standard deviation."""


def noise(like: Tensor, random: torch.Generator, size: float, dtype: torch.dtype | None = None) -> Tensor:
    """Draw uniform values with mean 0 and standard deviation ``size``; normal values take four times as long."""
    values = torch.empty(like.shape, dtype=dtype or like.dtype).uniform_(-1, 1, generator=random)
    return values.mul_(size * LARGEST).to(like.device)


def root_mean_square(values: Tensor) -> float:
    """Return √mean(x²), or 0.1 if all values are zero."""
    return float(values.norm()) / max(values.numel(), 1) ** 0.5 or 0.1


def _about_one(like: Tensor, random: torch.Generator) -> Tensor:
    return 1 + noise(like, random, 0.29)  # between 0.5 and 1.5
