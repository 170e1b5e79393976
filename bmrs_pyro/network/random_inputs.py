"""Random inputs like the example inputs, and longer ones where these are of length 1."""

from __future__ import annotations

__all__ = ["RandomInputs"]

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from bmrs_pyro.network.random_weights import noise, root_mean_square

Inputs = tuple[Any, ...]

_LONGER = 5


class RandomInputs:
    """Draws example inputs with noise, and integers from the range of the table that looks them up.

    Args:
        inputs: example inputs.
        works: runs the network on inputs and says whether it gives finite outputs.
    """

    def __init__(self, inputs: Inputs, works: Callable[[Inputs], bool]) -> None:
        self.inputs, self.works = inputs, works
        integers = [x for x in _tensors(inputs) if not x.is_floating_point() and x.dtype != torch.bool]
        self.ranges: dict[int, int] = {}
        if integers:
            with _LookUps(integers) as looked_up:
                works(inputs)
            self.ranges = {id(integers[index]): size for index, size in looked_up.ranges.items()}
            if not works(self.draw(0, torch.Generator().manual_seed(0))):
                self.ranges = {}

    def draw(self, variant: int, random: torch.Generator) -> Inputs:
        """Draw inputs: variant 0 as long as the examples, then, in turn, those with one dimension longer."""
        dim = self._repeats[variant % len(self._repeats)] if variant else None

        def drawn(x: Tensor) -> Tensor:
            size, x = self.ranges.get(id(x)), _repeated(x, dim)
            if size is not None:
                return torch.randint(size, x.shape, generator=random).to(x)
            if not x.is_floating_point():
                return x
            return x + noise(x, random, 0.1 * root_mean_square(x) if x.any() else 1.0)

        return tree_map_only(Tensor, drawn, self.inputs)

    @cached_property
    def _repeats(self) -> list[int | None]:
        """Dimensions of length 1 along which the network takes longer inputs too; None first."""
        dims = {dim for x in _tensors(self.inputs) for dim, size in enumerate(x.shape) if size == 1}
        longer = {
            dim: tree_map_only(Tensor, partial(_repeated, dim=dim), self.inputs) for dim in sorted(dims)
        }
        return [None, *(dim for dim, inputs in longer.items() if self.works(inputs))]


def _tensors(inputs: Inputs) -> list[Tensor]:
    return [x for x in tree_leaves(inputs) if isinstance(x, Tensor)]


def _repeated(x: Tensor, dim: int | None) -> Tensor:
    return x.repeat_interleave(_LONGER, dim) if dim is not None and x.shape[dim : dim + 1] == (1,) else x


class _LookUps(TorchDispatchMode):
    """Notes how long the tables are in which tensors of integers are looked up."""

    def __init__(self, integers: list[Tensor]) -> None:
        super().__init__()
        self.integers = integers
        self.ranges: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for indices, rows in _looked_up(func, args):
            storage = indices.untyped_storage().data_ptr()
            same = [n for n, x in enumerate(self.integers) if x.untyped_storage().data_ptr() == storage]
            equal = [  # copies, such as of another type
                n
                for n, x in enumerate(self.integers)
                if x.numel() == indices.numel() and bool((x.flatten() == indices.flatten()).all())
            ]
            for number in same or equal:
                self.ranges[number] = min(rows, self.ranges.get(number, rows))
        return func(*args, **(kwargs or {}))


def _looked_up(func: Any, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, int]]:
    """Yield the integers that an operation looks up, and the number of rows of its table."""
    match str(func.overloadpacket.__name__):
        case "embedding" | "_embedding_bag" | "_embedding_bag_forward_only":
            yield args[1], args[0].shape[0]
        case "index":
            for indices, rows in zip(args[1], args[0].shape, strict=False):
                if indices is not None and indices.dtype == torch.long:
                    yield indices, rows
