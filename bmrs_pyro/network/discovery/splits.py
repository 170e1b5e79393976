"""Splits of channels into parts, whose sizes the network's own code counts."""

from __future__ import annotations

__all__ = ["SPLITS", "SplitCall", "part_counts", "split_sizes", "tie_equal_parts"]

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bmrs_pyro.network.discovery.partition import Partition

SPLITS = {
    *(torch.split, torch.split_with_sizes, torch.chunk),
    *(Tensor.split, Tensor.split_with_sizes, Tensor.chunk),
}
Integers = int | tuple[int, ...]


@dataclass(frozen=True)
class SplitCall:
    """A split of channels.

    Attributes:
        modules: names of the modules in whose forward passes it was called, the innermost last.
        parts: labels of the channels of each part, −1 for none.
    """

    modules: tuple[str, ...]
    parts: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of channels of each part."""
        return tuple(map(len, self.parts))


def split_sizes(
    out: Iterable[Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[int, list[int]]:
    """Return the dimension along which a call splits, and the sizes of its results."""
    dim: int = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    return dim, [part.shape[dim] for part in out]


def tie_equal_parts(
    splits: Sequence[SplitCall], read: Mapping[str, Mapping[str, Integers]], partition: Partition
) -> None:
    """Unite the channels at the same place in parts of the same size, because one number stands for their sizes.

    Parts of which a module has a list of sizes can lose different channels. So can parts that are one structure each.
    """
    for split in splits:
        if any(split.sizes in read[name].values() for name in split.modules):
            continue
        for size in set(split.sizes):
            parts = [part for part in split.parts if len(part) == size]
            if all(len({partition.find(label) for label in part if label >= 0}) == 1 for part in parts):
                continue
            for labels in zip(*parts, strict=True):
                partition.join(label for label in labels if label >= 0)


def part_counts(
    split: SplitCall, read: Mapping[str, Mapping[str, Integers]]
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield the module and the attribute that may count the channels of a part, and their labels.

    The attribute ``sizes.2`` is the third number of a list ``sizes``.
    """
    for name in split.modules:
        for attribute, value in sorted(read[name].items()):
            if value == split.sizes:
                yield from ((name, f"{attribute}.{index}", part) for index, part in enumerate(split.parts))
            elif value != 1 and value in split.sizes:
                yield name, attribute, split.parts[split.sizes.index(value)]
