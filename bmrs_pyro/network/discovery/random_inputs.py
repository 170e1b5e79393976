"""Random inputs like the example inputs, also with dimensions of length 1 extended and large images cut."""

from __future__ import annotations

__all__ = ["RandomInputs", "smaller_images"]

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bmrs_pyro.network.discovery.random_weights import LARGEST, noise, root_mean_square
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.nested import tensors_in

_LONGER = 5
_LARGE = 128  # images with sides of so many pixels are cut to a quarter if the network accepts that


class RandomInputs:
    """Draws example inputs with added noise, and integers from the range of the table that they index.

    Where the network does not run on such numbers, as where it takes logarithms, the noise is changed until it does:
    reflected at the least and the largest example, of one sign, or a hundredth as large.

    Args:
        call: how the network is called.
        works: calls the network and says whether it gives finite outputs.
        small: whether the network takes :func:`smaller_images`.
    """

    def __init__(self, call: Call, works: Callable[[Call], bool], *, small: bool = False) -> None:
        self.call, self.works, self.small = call, works, small
        self.tensors = tensors_in(tuple(call))
        integers = [x for x in self.tensors if not x.is_floating_point() and x.dtype not in _NO_INDEX]
        self.ranges: dict[int, int] = {}
        if integers:
            with _LookUps(integers) as looked_up:
                works(call)
            self.ranges = {id(integers[index]): size for index, size in looked_up.ranges.items()}
        self.changed: _Change = _added
        if any(map(_may_be_bounded, self.tensors)):
            self.changed = next(filter(self._fits, _CHANGES), _added)
        if integers and not works(self.draw(0, torch.Generator().manual_seed(0))):
            self.ranges = {}

    def _fits(self, changed: _Change) -> bool:
        """Whether the network runs with the largest noise of either sign, and with random noise."""
        random = torch.Generator().manual_seed(0)

        def shifted(sign: int, x: Tensor) -> Tensor:
            x = _quarter(x) if self.small else x
            if not _noisy(x):
                return x
            largest = torch.full_like(x, sign * LARGEST) if sign else noise(x, random, 1.0)
            return changed(x, _noise_size(x) * largest)

        return all(self.works(self.call.map(partial(shifted, sign))) for sign in (-1, 1, 0))

    def draw(self, variant: int, random: torch.Generator, *, small: bool = False) -> Call:
        """Draw inputs: variant 0 has the examples' shape; in the next variants one dimension at a time is longer.

        Args:
            variant: number of the variant.
            random: generator of the values.
            small: cut large images to a quarter if the network accepts that.
        """
        dim = self._repeats[variant % len(self._repeats)] if variant else None
        cut = small and self.small

        def drawn(x: Tensor) -> Tensor:
            size, x = self.ranges.get(id(x)), _repeated(_quarter(x) if cut else x, dim)
            if size is not None:
                return torch.randint(size, x.shape, generator=random).to(x)
            return self.changed(x, noise(x, random, _noise_size(x))) if _noisy(x) else x

        return self.call.map(drawn)

    @cached_property
    def _repeats(self) -> list[int | None]:
        """Dimensions of length 1 along which the network accepts longer inputs too; None first."""
        dims = {dim for x in self.tensors for dim, size in enumerate(x.shape) if size == 1}
        longer = {dim: self.call.map(partial(_repeated, dim=dim)) for dim in sorted(dims)}
        return [None, *(dim for dim, call in longer.items() if self.works(call))]


_NO_INDEX = (torch.bool, torch.complex64, torch.complex128)


def smaller_images(call: Call) -> Call | None:
    """Return the call with a quarter of each large image; None where there is no large image."""
    small = call.map(_quarter)
    pairs = zip(tensors_in(tuple(call)), tensors_in(tuple(small)), strict=True)
    return small if any(x.shape != y.shape for x, y in pairs) else None


def _quarter(x: Tensor) -> Tensor:
    image = x.is_floating_point() and x.dim() == 4 and min(x.shape[2:]) >= _LARGE
    return x[..., : x.shape[2] // 2, : x.shape[3] // 2] if image else x


def _repeated(x: Tensor, dim: int | None) -> Tensor:
    return x.repeat_interleave(_LONGER, dim) if dim is not None and x.shape[dim : dim + 1] == (1,) else x


def _noise_size(x: Tensor) -> float:
    return 0.1 * root_mean_square(x) if x.any() else 1.0


def _noisy(x: Tensor) -> bool:
    return x.is_floating_point() and x.numel() > 0


def _may_be_bounded(x: Tensor) -> bool:
    """Whether the values have one sign or are at most 1: roots, logarithms and arcsines read such."""
    if not _noisy(x):
        return False
    low, high = (float(bound) for bound in x.aminmax())
    return low >= 0 or high <= 0 or max(-low, high) <= 1


_Change = Callable[[Tensor, Tensor], Tensor]
"""Applies noise to an example."""


def _added(x: Tensor, noise: Tensor) -> Tensor:
    return x + noise


def _reflected(x: Tensor, noise: Tensor) -> Tensor:
    """Fold sums into the range of the examples; equal examples have none."""
    low, high = x.aminmax()
    width = high - low
    if width == 0:
        return x + noise
    return low + width - ((x + noise - low).remainder(2 * width) - width).abs()


def _raised(x: Tensor, noise: Tensor) -> Tensor:
    return x + noise.abs()


def _lowered(x: Tensor, noise: Tensor) -> Tensor:
    return x - noise.abs()


def _smaller(changed: _Change, x: Tensor, noise: Tensor) -> Tensor:
    return changed(x, 0.01 * noise)


_CHANGES: tuple[_Change, ...] = (
    *(_added, _reflected, _raised, _lowered),
    *(partial(_smaller, changed) for changed in (_added, _raised, _lowered)),
)


class _LookUps(TorchDispatchMode):
    """Records the lengths of the tables that integer tensors, or copies of them, index."""

    def __init__(self, integers: list[Tensor]) -> None:
        super().__init__()
        self.alive = list(integers)  # kept alive, so that no other tensor gets their addresses
        self.numbers = {_place(x): number for number, x in enumerate(integers)}
        self.ranges: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for indices, rows in _looked_up(func, args):
            number = self.numbers.get(_place(indices))
            if number is not None:
                self.ranges[number] = min(rows, self.ranges.get(number, rows))
        result = func(*args, **(kwargs or {}))
        if _name(func) in ("clone", "_to_copy") and _place(args[0]) in self.numbers:
            self.alive.append(result)
            self.numbers[_place(result)] = self.numbers[_place(args[0])]
        return result


def _looked_up(func: Any, args: tuple[Any, ...]) -> Iterable[tuple[Tensor, int]]:
    """Yield the integers that an operation uses as indices, and the number of rows of its table."""
    match _name(func):
        case "embedding" | "_embedding_bag" | "_embedding_bag_forward_only":
            yield args[1], args[0].shape[0]
        case "index":
            for indices, rows in zip(args[1], args[0].shape, strict=False):
                if indices is not None and indices.dtype == torch.long:
                    yield indices, rows


def _name(func: Any) -> str:
    return str(func.overloadpacket.__name__)


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
