"""Tensors in nested values, such as the inputs and outputs of a network."""

from __future__ import annotations

__all__ = ["is_empty", "leaves", "map_leaves", "tensors_in"]

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map


def leaves(value: Any, is_leaf: Callable[[Any], bool] | None = None) -> Iterator[Any]:
    """Yield the leaves of a nested value; torch's pytrees, mappings, dataclasses and sequences are opened.

    Args:
        value: any value.
        is_leaf: whether a value is not to be opened; None opens everything.
    """
    for leaf in tree_leaves(value, is_leaf):
        if is_leaf is not None and is_leaf(leaf):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from leaves(list(leaf.values()), is_leaf)
        elif _is_record(leaf):
            yield from leaves([getattr(leaf, field.name, None) for field in fields(leaf)], is_leaf)
        elif isinstance(leaf, (tuple, list)):
            yield from leaves(list(leaf), is_leaf)
        else:
            yield leaf


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a nested value with every leaf replaced by a function of it."""

    def mapped(leaf: Any) -> Any:
        if isinstance(leaf, Mapping):
            new: Any = copy.copy(leaf) if isinstance(leaf, MutableMapping) else {}
            for key, item in leaf.items():
                new[key] = map_leaves(function, item)
            return new
        if _is_record(leaf):
            new = copy.copy(leaf)
            for field in fields(leaf):
                # this works for frozen dataclasses too
                object.__setattr__(new, field.name, map_leaves(function, getattr(leaf, field.name, None)))
            return new
        return function(leaf)

    # a PackedSequence holds a tensor that has to stay on the CPU
    return tree_map(mapped, value, is_leaf=lambda part: isinstance(part, PackedSequence))


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of a nested value, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def is_empty(value: Any) -> bool:
    """Whether a nested value holds tensors, but not a single number, as the rows of an expert that no token chose."""
    tensors = tensors_in(value)
    return bool(tensors) and not any(tensor.numel() for tensor in tensors)


def _is_record(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)
