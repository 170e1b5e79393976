"""A device that is only imagined: numbers that are here, say they are there, and refuse to meet those that are here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_DEVICE = torch.device("meta")  # needs no driver
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class _There(Tensor):
    here: Tensor

    @staticmethod
    def __new__(cls: type[_There], here: Tensor) -> _There:
        self: _There = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=_DEVICE
        )
        self.here = here
        return self

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, _There) for tensor in tensors)
    here = any(tensor.dim() and not isinstance(tensor, _There) for tensor in tensors)
    if here and there and func not in _COPIES:
        raise RuntimeError(f"{func} on tensors of two devices")
    if "device" in kwargs:
        there = torch.device(kwargs["device"]) == _DEVICE
        kwargs = {**kwargs, "device": "cpu"}
    args, kwargs = tree_map_only(_There, lambda tensor: tensor.here, (args, kwargs))
    result = func(*args, **kwargs)
    return tree_map_only(Tensor, _There, result) if there else result


@contextmanager
def elsewhere(net: nn.Module) -> Iterator[None]:
    """Move a network to the imagined device, for good; what runs within the context can use it there."""
    for module in net.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is not None:
                    tensors[name] = _There(value.detach())  # type: ignore[assignment]
    with torch.no_grad(), _Mode():
        yield
