"""Inputs and outputs of a network as named tensors, which exported files can hold."""

from __future__ import annotations

__all__ = ["named_inputs", "named_tensors", "plain_outputs"]

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor, nn

from bmrs_pyro.network.inputs import Call

_INPUT = "input"


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a nested value with their names, such as ``hidden_states.0``; all else is passed over."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (tuple, list, Mapping)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from named_tensors(item, f"{name}.{key}" if name else str(key))
    elif is_dataclass(value):
        yield from named_tensors(vars(value), name)


def plain_outputs(outputs: Any) -> Any:
    """Return a dataclass, or a mapping of another class, as a dict of its tensors; other outputs as they are."""
    record = isinstance(outputs, Mapping) or is_dataclass(outputs)
    return dict(named_tensors(outputs)) if record else outputs


def named_inputs(net: nn.Module, x: Any) -> dict[str, Tensor]:
    """Return the tensors that a network is called with by the names of its parameters; ``input`` for a single one."""
    if isinstance(x, Tensor):
        return {_INPUT: x}
    call = Call.of(net, x)
    by_position = inspect.signature(net.forward).bind_partial(*call.args).arguments
    return dict(named_tensors({**by_position, **call.kwargs}))
