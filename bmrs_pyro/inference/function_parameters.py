"""The parameters of a likelihood that is a function: those of the modules that it refers to."""

from __future__ import annotations

__all__ = ["FunctionLikelihood", "with_parameters"]

import copy
from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn


class FunctionLikelihood(nn.Module):
    """A likelihood that is a function, as a module with the parameters that the function refers to.

    A deep copy has its own parameters, also if the function finds them in its closure.

    Args:
        function: maps a network's outputs to a distribution.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        parts = list(_parts(function))
        self.function = function
        self.used = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        self.own = nn.ParameterList(part for part in parts if isinstance(part, nn.Parameter))

    def forward(self, outputs: Any) -> Any:
        """Return the function's distribution."""
        return self.function(outputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionLikelihood:
        memo[id(self)] = copied = FunctionLikelihood(_copied(self.function, memo))
        return copied.train(self.training)


def with_parameters(likelihood: Callable[[Any], Any], network: nn.Module) -> Callable[[Any], Any]:
    """Return a likelihood as a module, if it is a function, partial, bound method or object with parameters.

    Args:
        likelihood: maps a network's outputs to a distribution.
        network: the network; a function that refers to its parameters is returned as it is.
    """
    if isinstance(likelihood, nn.Module):
        return likelihood
    found = FunctionLikelihood(likelihood)
    ours = {id(parameter) for parameter in network.parameters()}
    own = [parameter for parameter in found.parameters() if parameter.requires_grad]
    return found if own and not any(id(parameter) in ours for parameter in own) else likelihood


def _parts(value: Any, seen: set[int] | None = None) -> Iterator[nn.Module | nn.Parameter]:
    """Yield the modules and parameters that a value refers to."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module | nn.Parameter):
        yield value
        return
    for item in _items(value):
        yield from _parts(item, seen)


def _items(value: Any) -> list[Any]:
    if isinstance(value, FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, list | tuple | dict):
        items = value.values() if isinstance(value, dict) else value
        return [item for item in items if not isinstance(item, FunctionType)]
    fields = (
        list(vars(value).values())
        if callable(value) and not isinstance(value, type) and hasattr(value, "__dict__")
        else []
    )
    return [item for item in fields if not isinstance(item, FunctionType)]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """Deep-copy a value; of functions, for which deepcopy does nothing, copy what holds parameters."""
    if id(value) in memo or next(_parts(value), None) is None:
        return memo.get(id(value), value)
    if isinstance(value, partial):
        args, keywords = copy.deepcopy((value.args, value.keywords), memo)
        return partial(_copied(value.func, memo), *args, **keywords)
    if not isinstance(value, FunctionType):
        return copy.deepcopy(value, memo)
    cells = [CellType() for _ in value.__closure__ or ()]
    copied = FunctionType(value.__code__, value.__globals__, value.__name__, None, tuple(cells))
    memo[id(value)] = copied  # it may refer to itself
    for old, new in zip(value.__closure__ or (), cells, strict=True):
        new.cell_contents = _copied(_content(old), memo)
    copied.__defaults__ = value.__defaults__ and tuple(_copied(item, memo) for item in value.__defaults__)
    copied.__kwdefaults__ = value.__kwdefaults__ and {
        name: _copied(item, memo) for name, item in value.__kwdefaults__.items()
    }
    return copied
