"""Calls of torch that put the examples of a batch into another order."""

from __future__ import annotations

__all__ = ["Reorderings"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SORTS = {torch.sort, torch.argsort, torch.topk, Tensor.sort, Tensor.argsort, Tensor.topk}
_NONZERO = {torch.nonzero, torch.argwhere, Tensor.nonzero, Tensor.argwhere}


class Reorderings(TorchFunctionMode):
    """Records for every sort, selection and permutation of the examples whether it moves or drops an example.

    Args:
        size: number of examples.
        moved: the results, by the call's number; once True, always True.
    """

    def __init__(self, size: int, moved: dict[int, bool]) -> None:
        super().__init__()
        self.size, self.moved, self.calls = size, moved, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make the call and note what it does."""
        result = func(*args, **(kwargs or {}))
        moves = self._moves(func, args, result)
        if moves is not None:
            self.moved[self.calls] = moves or self.moved.get(self.calls, False)
            self.calls += 1
        return result

    def _moves(self, func: Callable[..., Any], args: Sequence[Any], result: Any) -> bool | None:
        """Say whether a call moves or drops examples; None if it does not concern examples."""
        if func is torch.randperm:
            return True if args[:1] == (self.size,) else None
        if func in _SORTS:
            order = result if isinstance(result, Tensor) else result[1]
            if order.shape == (self.size,):
                return not torch.equal(order, torch.arange(self.size, device=order.device))
        elif func is Tensor.__getitem__:
            index = args[1] if isinstance(args[1], tuple) else args[1:2]
            for mask in index:
                if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (self.size,):
                    return _some(mask)
        elif func in _NONZERO and args[0].shape == (self.size,):
            return _some(args[0] != 0)
        return None


def _some(mask: Tensor) -> bool:
    """Whether a mask selects some elements but not all."""
    return bool(mask.any()) and not bool(mask.all())
