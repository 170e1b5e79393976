"""Look at a network, run it and copy it, without leaving a trace in it."""

from __future__ import annotations

__all__ = ["modes_kept", "random_state_kept", "shared_copy", "tensor_outputs"]

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Module = TypeVar("Module", bound=nn.Module)


def shared_copy(net: Module) -> Module:
    """Deep-copy a network, but share each parameter's values until one of the two is given new ``.data``."""
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in net.parameters()
    }
    return copy.deepcopy(net, memo)


def tensor_outputs(net: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Run a network and return the floating-point tensors it puts out, however nested."""
    leaves = tree_leaves(net(*inputs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Put every module back into the mode, training or evaluation, that it came in."""
    modes = {module: module.training for module in net.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def random_state_kept(net: nn.Module) -> AbstractContextManager[None]:
    """Put the random state back, of the CPU and of the devices that the network is on."""
    devices = {tensor.device for tensor in chain(net.parameters(), net.buffers()) if tensor.is_cuda}
    return torch.random.fork_rng(devices)
