"""The arguments that a network is called with."""

from __future__ import annotations

__all__ = ["Call", "arguments", "batch_size", "in_single_", "other_type", "unknown_names"]

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bmrs_pyro.network.nested import map_leaves, tensors_in


class Call(NamedTuple):
    """The arguments of a call ``net(*args, **kwargs)``.

    Attributes:
        args: arguments by position: tensors, None, numbers, or nested values of these.
        kwargs: arguments by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, net: nn.Module, inputs: Any, *, by_name: bool = False) -> Call:
        """Split inputs into arguments by position and arguments by name.

        A tuple is several inputs, anything else is one. If the last one is a dict whose keys are parameters of the
        network's ``forward``, its items are passed by name, like a tokenizer's batch; another dict is one input.

        Args:
            net: the network.
            inputs: one input, or a tuple of several.
            by_name: pass the items of a dict by name without checking ``forward``.
        """
        several = isinstance(inputs, tuple) and not isinstance(inputs, PackedSequence)
        args = tuple(inputs) if several else (inputs,)
        if args and isinstance(args[-1], Mapping) and all(isinstance(name, str) for name in args[-1]):
            named = cls(args[:-1], dict(args[-1]))
            if by_name or named.fits(net):
                return named
        return cls(args, {})

    def fits(self, net: nn.Module) -> bool:
        """Whether the network's ``forward`` has parameters for these arguments."""
        try:
            inspect.signature(net.forward).bind(*self.args, **self.kwargs)
        except (TypeError, ValueError):
            return False
        return True

    def __call__(self, net: Callable[..., Any]) -> Any:
        """Call a network."""
        return net(*self.args, **self.kwargs)

    def map(self, function: Callable[[Tensor], Tensor]) -> Call:
        """Return the call with every tensor replaced by a function of it."""
        args, kwargs = map_leaves(
            lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, (self.args, self.kwargs)
        )
        return Call(args, kwargs)

    def on(self, net: nn.Module) -> Call:
        """Return the call with all tensors on the device of the network's weights, if none is there yet.

        Otherwise they stay as they are: some networks want lengths on the CPU, or have weights on several devices.
        """
        devices = {tensor.device for tensor in (*net.parameters(), *net.buffers())}
        given = {tensor.device for tensor in tensors_in((self.args, self.kwargs))}
        if devices & given or len(devices) != 1:
            return self
        device = devices.pop()
        return self.map(lambda x: x.to(device))

    def fresh(self, net: Callable[..., Any]) -> Any:
        """Call a network with copies of the tensors, because some networks change their inputs."""
        return self.map(lambda x: x.detach().clone().requires_grad_(x.requires_grad))(net)

    def __str__(self) -> str:
        """Show the shapes of the tensors, and the values or types of everything else."""
        named = [f"{name}={_shown(value)}" for name, value in self.kwargs.items()]
        return ", ".join([*map(_shown, self.args), *named])


def arguments(inputs: Any) -> tuple[Any, ...]:
    """Return a batch's inputs as the arguments after ``NoisyNetwork(net, …)``: a tuple is several inputs."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def batch_size(inputs: Any) -> int | None:
    """Return the first dimension of the first tensor among the inputs; None without a tensor that has one."""
    return next((len(tensor) for tensor in tensors_in(inputs) if tensor.dim()), None)


def in_single_(net: nn.Module, call: Call) -> Call:
    """Turn a network with weights of half precision into single precision, and return the call in it."""
    if not any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in net.parameters()):
        return call
    net.float()
    return call.map(lambda x: x.float() if x.is_floating_point() else x)


def unknown_names(net: nn.Module, call: Call) -> str:
    """Name the keys of a dict that ``forward`` does not have; return "" if it has all."""
    last = call.args[-1] if call.args else None
    names = set(last) if isinstance(last, Mapping) else set()
    unknown = names - inspect.signature(net.forward).parameters.keys()
    return f" (forward has no {', '.join(map(repr, sorted(unknown)))})" if unknown else ""


def other_type(net: nn.Module, inputs: Any, error: Exception) -> str:
    """Advise on inputs of another type than the weights, if an error is about types; return "" otherwise."""
    weight = next((tensor for tensor in net.parameters() if tensor.is_floating_point()), None)
    if weight is None or not re.search(r"\bd?type\b", str(error)):
        return ""
    others = {str(tensor.dtype) for tensor in tensors_in(inputs)} - {str(weight.dtype)}
    if not others:
        return ""
    given = " and ".join(sorted(others))
    return f"inputs are {given}, the weights {weight.dtype}: convert one of them, such as by x.to({weight.dtype})"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_shown(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_shown, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)"
    return repr(value) if isinstance(value, (str, int, float, complex, type(None))) else type(value).__name__
