"""Buffers that a network's own code multiplies or adds to channels, such as fixed scales and positions."""

from __future__ import annotations

__all__ = ["constants"]

from collections import Counter
from collections.abc import Iterator

from torch import nn

from bmrs_pyro.network.discovery.local_gradients import Source
from bmrs_pyro.network.layers import output_side


def constants(net: nn.Module) -> Iterator[Source]:
    """Yield the buffers that are saved and that no layer of torch's kind holds; gradients reach them from now on."""
    saved = net.state_dict().keys()
    places = Counter(buffer.untyped_storage().data_ptr() for _, buffer in net.named_buffers())
    for name, module in net.named_modules():
        known = output_side(module) is not None or type(module).__module__.startswith("torch.nn.")
        for own, buffer in () if known else module.named_buffers(recurse=False):
            path = f"{name}.{own}" if name else own
            alone = places[buffer.untyped_storage().data_ptr()] < 2  # no view of another one
            if buffer.is_floating_point() and buffer.numel() > 1 and path in saved and alone:
                constant = nn.Parameter(buffer.detach().clone())
                module._buffers[own] = constant.clone()  # the network's code may change it in place
                yield Source(constant, path)
