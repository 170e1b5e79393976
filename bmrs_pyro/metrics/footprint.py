"""How much memory a network takes to run, and how much to store."""

from __future__ import annotations

__all__ = ["file_bytes", "peak_bytes", "peak_of"]

import weakref
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bmrs_pyro.inference.inputs import outputs_of
from bmrs_pyro.metrics.evaluation import evaluation_mode
from bmrs_pyro.network.nested import tensors_in


class _LiveStorages(TorchDispatchMode):
    """Adds up the bytes of storages that operations allocate, and subtracts them when they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def own(self, storage: torch.UntypedStorage) -> None:
        """Count a storage that exists already."""
        if storage not in self._seen:
            self._seen.add(storage)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._seen.add(leaf.untyped_storage())  # it existed before: a view of it allocates nothing
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.own(leaf.untyped_storage())
        return result


def peak_bytes(net: nn.Module, x: Any) -> int:
    """Return the most memory that tensors take at once in one evaluation: weights, input and activations.

    Memory that kernels use internally is not counted.

    Args:
        net: the network.
        x: one batch of inputs.
    """
    with evaluation_mode(net):
        return peak_of(lambda: outputs_of(net, x), chain(net.parameters(), net.buffers(), tensors_in(x)))


def peak_of(run: Callable[[], object], present: Iterable[Tensor] = ()) -> int:
    """Return the most memory that tensors take at once while a function runs.

    Args:
        run: the function.
        present: tensors that exist already and count.
    """
    live = _LiveStorages()
    for tensor in present:
        live.own(tensor.untyped_storage())
    with live:
        run()
    return live.peak


def file_bytes(net: nn.Module) -> int:
    """Return the size of a safetensors file of the network's weights and buffers."""
    return len(save({name: value.contiguous().clone() for name, value in net.state_dict().items()}))
