"""Which parameters of a network are random, gathered layer by layer into matrices."""

from __future__ import annotations

__all__ = ["Layer", "weight_layers"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """The random parameters of one layer as a matrix: a row per output, the bias as one more column.

    Attributes:
        name: Pyro site name, ``weights.`` and the module's name.
        shapes: shape of every parameter by its name in the network, in the order of the columns.
        like: one of the parameters, which follows the network to other devices.
        last: whether this is the network's last random layer, which keeps all its weights.
    """

    name: str
    shapes: Mapping[str, torch.Size]
    like: Tensor = field(repr=False, compare=False)
    last: bool = False

    @property
    def device(self) -> torch.device:
        """Where the layer is now."""
        return self.like.device

    @property
    def widths(self) -> list[int]:
        """Columns of each parameter."""
        return [math.prod(shape[1:]) for shape in self.shapes.values()]

    @property
    def shape(self) -> torch.Size:
        """(rows, columns) of the matrix."""
        first = next(iter(self.shapes.values()))
        return torch.Size((first[0] if first else 1, sum(self.widths)))

    def parameters(self, matrix: Tensor) -> dict[str, Tensor]:
        """Split a matrix ``(rows, columns)`` into the layer's parameters, by name."""
        parts = matrix.split(self.widths, 1)
        return {
            name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def matrix(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Join the layer's parameters, taken by name from ``parameters``, into a matrix ``(rows, columns)``."""
        return torch.cat([parameters[name].reshape(self.shape[0], -1) for name in self.shapes], 1)


def weight_layers(net: nn.Module, select: Callable[[str], bool] | None = None) -> tuple[Layer, ...]:
    """Gather the selected parameters of a network, in module order.

    Parameters of one module with the same number of rows share a matrix; every other parameter gets its own.

    Args:
        net: the network.
        select: which parameters are random, by name as in ``named_parameters()``; by default all that are not frozen.

    Raises:
        ValueError: ``select`` picks no parameter, or all are frozen.
    """
    groups: dict[tuple[str, int], dict[str, torch.Size]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad if select is None else select(name):
            rows = parameter.shape[0] if parameter.dim() else 1
            groups.setdefault((name.rpartition(".")[0], rows), {})[name] = parameter.shape
    if not groups:
        names = ", ".join(name for name, _ in net.named_parameters()) or "none"
        if select is None:
            raise ValueError(
                f"no parameter can be random: the network has {names}, and what it has is frozen "
                "(requires_grad=False); unfreeze some, or select some"
            )
        raise ValueError(
            f"select picks none of the network's parameters; it is called with their names: {names}"
        )
    modules = [module for module, _ in groups]
    last = len(groups) - 1
    return tuple(
        Layer(
            _site(module if modules.count(module) == 1 else next(iter(shapes))),
            shapes,
            net.get_parameter(next(iter(shapes))),
            last=index == last,
        )
        for index, ((module, _), shapes) in enumerate(groups.items())
    )


def _site(name: str) -> str:
    return f"weights.{name}" if name else "weights"
