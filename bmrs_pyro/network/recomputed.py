"""Products that are computed again for the backward pass instead of being kept."""

from __future__ import annotations

__all__ = ["Recomputed"]

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_Layout = tuple[torch.Size, tuple[int, ...], int]  # shape, strides, offset


class Recomputed(saved_tensors_hooks):
    """Within the context, a layer saves x and the gain for its backward pass instead of y = x · gain."""

    def __init__(self, y: Tensor, x: Tensor, gain: Tensor) -> None:
        self.y = y  # kept alive, so that no other tensor gets its address within the context
        product, unchanged = y.untyped_storage().data_ptr(), y._version
        x, gain = x.detach(), gain.detach()

        def pack(saved: Tensor) -> tuple[Tensor, int] | _Layout:
            if saved.untyped_storage().data_ptr() != product or saved._version != unchanged:
                return saved, saved._version
            return saved.shape, saved.stride(), int(saved.storage_offset())

        def unpack(packed: tuple[Tensor, int] | _Layout) -> Tensor:
            if len(packed) == 3:
                return (x * gain).as_strided(*packed)
            saved, version = packed
            if saved._version != version:  # torch checks this only without hooks
                raise RuntimeError(
                    f"a tensor of shape {tuple(saved.shape)} that the backward pass needs was modified by an inplace "
                    "operation after the forward pass; change weights after backward()"
                )
            return saved

        super().__init__(pack, unpack)
