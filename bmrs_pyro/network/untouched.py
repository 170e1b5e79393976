"""Inspect a network, run it and copy it, without changing it."""

from __future__ import annotations

__all__ = [
    "deep_copy",
    "failure_in_training",
    "forget_",
    "modes_kept",
    "random_state_kept",
    "runs",
    "shared_copy",
    "tensor_outputs",
]

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.nested import leaves

Module = TypeVar("Module", bound=nn.Module)
_HOLD_NO_TENSOR = (type(None), str, bytes, Enum, torch.dtype, torch.device)


def shared_copy(net: Module) -> Module:
    """Deep-copy a network, but share each parameter's values until one of the two is given new ``.data``."""
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in net.parameters()
    }
    copied = _copied(net, memo)
    forget_(copied)
    return copied


def deep_copy(net: Module) -> Module:
    """Deep-copy a network, also one that keeps what it has computed from its weights, such as a masked weight."""
    return _copied(net, {})


def _copied(net: Module, memo: dict[int, object]) -> Module:
    # deepcopy refuses tensors that depend on others
    memo |= {id(tensor): tensor.detach().clone() for tensor in _kept(net) if not tensor.is_leaf}
    return copy.deepcopy(net, memo)


def forget_(net: nn.Module) -> None:
    """Let modules forget what they have computed from their weights and kept, as they do when their mode is set."""
    for module in net.modules():
        if type(module).train is not nn.Module.train and _tables(module):
            with modes_kept(module):
                module.train(module.training)


def _tables(module: nn.Module) -> list[Tensor]:
    """Return the tensors that a module keeps in dicts of its own."""
    own = {name: value for name, value in vars(module).items() if name not in ("_parameters", "_buffers")}
    tables = [value.values() for value in own.values() if isinstance(value, dict)]
    return [item for items in tables for item in items if isinstance(item, Tensor)]


def _kept(net: nn.Module) -> Iterator[Tensor]:
    for module in net.modules():
        for value in vars(module).values():
            several = list(value.values()) if isinstance(value, dict) else value
            items = several if isinstance(several, (list, tuple)) else [several]
            yield from (item for item in items if isinstance(item, Tensor))


def tensor_outputs(net: nn.Module, call: Call) -> list[Tensor]:
    """Run a network and return its output tensors, however nested; numbers become tensors.

    The cache of a Hugging Face network does not count as an output, because it is for the next call.

    Raises:
        TypeError: the outputs hold an object that cannot be looked into.
    """
    found = []
    for leaf in leaves(call.fresh(net), _is_cache):
        if isinstance(leaf, Tensor):
            leaf = leaf.to_dense() if leaf.is_sparse else leaf
            found.append(leaf if leaf.is_floating_point() or leaf.is_complex() else leaf.double())
        elif isinstance(leaf, (int, float, complex)):
            found.append(torch.tensor(leaf, dtype=None if isinstance(leaf, complex) else torch.float64))
        elif not isinstance(leaf, _HOLD_NO_TENSOR) and not _is_cache(leaf):
            raise TypeError(
                f"the network puts out an object of type {type(leaf).__name__!r}, which cannot be searched for "
                "tensors; put out tensors, tuples, dicts or dataclasses, or register the type with "
                "torch.utils._pytree.register_pytree_node"
            )
    return found


def runs(net: nn.Module, call: Call) -> bool:
    """Whether a network runs on these inputs."""
    try:
        with torch.no_grad():
            return bool(tensor_outputs(shared_copy(net), call))
    except Exception:  # whatever the network's own code raises on inputs that it does not accept
        return False


def failure_in_training(net: nn.Module, call: Call) -> Exception | None:
    """Run a network in training mode, which may change its buffers, and return the error, if there is one."""
    try:
        with torch.no_grad(), modes_kept(net):
            call.fresh(net.train())
    except Exception as error:
        return error
    return None


def _is_cache(value: object) -> bool:
    return any(
        base.__name__ == "Cache" and base.__module__.startswith("transformers.")
        for base in type(value).__mro__
    )


@contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Restore the mode, training or evaluation, of every module at the end."""
    modes = {module: module.training for module in net.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def random_state_kept(net: nn.Module) -> AbstractContextManager[None]:
    """Restore the random state of the CPU and of the network's devices at the end."""
    devices = {tensor.device for tensor in chain(net.parameters(), net.buffers()) if tensor.is_cuda}
    return torch.random.fork_rng(devices)
