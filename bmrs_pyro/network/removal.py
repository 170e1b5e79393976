"""Cut structures out of a network, in place, and record how, so that other tensors can be cut in the same way."""

from __future__ import annotations

__all__ = ["Removal", "remove_", "replace_values_", "set_count"]

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from bmrs_pyro.network.structures import Member, StructureFamily
from bmrs_pyro.network.untouched import forget_


@dataclass(frozen=True)
class Cut:
    """How one tensor is cut.

    Attributes:
        shape: of the old tensor.
        kept: positions that stay, by dimension; all stay along the dimensions not named.
    """

    shape: torch.Size
    kept: Mapping[int, Tensor]

    def __call__(self, tensor: Tensor) -> Tensor:
        """Cut a tensor of the old shape."""
        for dim, positions in self.kept.items():
            tensor = tensor.index_select(dim, positions.to(tensor.device))
        return tensor


class _FlatIndices(Mapping[str, Tensor]):
    """Indices that are made on access: at 8 bytes each they take more memory than the network."""

    def __init__(self, cuts: Mapping[str, Cut]) -> None:
        self.cuts = cuts

    def __getitem__(self, name: str) -> Tensor:
        cut = self.cuts[name]
        return cut(torch.arange(cut.shape.numel()).view(cut.shape))

    def __contains__(self, name: object) -> bool:
        return name in self.cuts

    def __iter__(self) -> Iterator[str]:
        return iter(self.cuts)

    def __len__(self) -> int:
        return len(self.cuts)


@dataclass(frozen=True)
class Removal:
    """What has been removed from a network.

    Attributes:
        keep: mask ``(C,)`` of every family, in its old numbering; True stays.
        cuts: how each tensor that lost entries was cut, by name in the network's ``state_dict``.
    """

    keep: Mapping[str, Tensor]
    cuts: Mapping[str, Cut]

    @property
    def indices(self) -> Mapping[str, Tensor]:
        """Flat indices into each old tensor, in its new shape: ``new = old.flatten()[indices[name]]``."""
        return _FlatIndices(self.cuts)

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """Cut a tensor that has the shape of a weight or buffer: a moment, a gradient, an average.

        Args:
            name: of the weight or buffer, in the network's ``state_dict``.
            tensor: shaped as the weight was before the removal.

        Raises:
            ValueError: the tensor has another shape.
        """
        cut = self.cuts.get(name)
        if cut is None:
            return tensor
        if tensor.shape != cut.shape:
            raise ValueError(f"{name!r} was {tuple(cut.shape)} before the removal, got {tuple(tensor.shape)}")
        return cut(tensor)


@torch.no_grad()
def remove_(
    net: nn.Module, structures: Sequence[StructureFamily], keep: Mapping[str, Tensor]
) -> tuple[Removal, list[StructureFamily]]:
    """Cut structures out of every layer that holds them, in place.

    Parameters and buffers stay the same objects and get new ``.data``.

    Args:
        net: the network.
        structures: its families.
        keep: mask ``(C,)`` per family, True for what stays; families not named stay whole.

    Returns:
        What was removed, and the families as they are now.

    Raises:
        ValueError: a mask is of an unknown family, has another length or keeps nothing.
        TypeError: a mask is not boolean.
    """
    masks = _checked(structures, keep)
    sides: dict[tuple[str, tuple[tuple[str, int], ...], tuple[str, ...]], Tensor] = {}
    for family in structures:
        for member in family.members:
            side = sides.setdefault(_side(member), torch.ones(member.size, dtype=torch.bool))
            side[member.positions] = masks[family.name][member.structures]

    kept: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for (module, tensors, attributes), stays in sides.items():
        if stays.all():
            continue
        for name, dim in tensors:
            kept[name][dim] = stays.nonzero().squeeze(1)
        for attribute in attributes:
            set_count(net.get_submodule(module), attribute, int(stays.sum()))
    cuts = _cut_(net, kept)
    forget_(net)
    left = [
        replace(
            family,
            size=int(masks[family.name].sum()),
            members=tuple(_renumbered(m, masks[family.name], sides[_side(m)]) for m in family.members),
        )
        for family in structures
    ]
    return Removal(masks, cuts), left


def set_count(layer: nn.Module, attribute: str, count: int) -> None:
    """Set an integer attribute of a layer, or one number in a list; ``sizes.2`` is the third of ``sizes``."""
    name, _, index = attribute.partition(".")
    value: Any = count
    if index:
        old = getattr(layer, name)
        value = type(old)(count if place == int(index) else one for place, one in enumerate(old))
    setattr(layer, name, value)


def _cut_(net: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> dict[str, Cut]:
    """Give the tensors their new values; tied ones have one tensor and several names."""
    names: dict[int, list[str]] = defaultdict(list)
    state = net.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names[id(tensor)].append(name)
    cuts: dict[str, Cut] = {}
    for aliases in names.values():
        tensor = state[aliases[0]]
        dims: dict[int, Tensor] = {}
        for name in aliases:
            for dim, positions in kept.get(name, {}).items():
                if not torch.equal(dims.setdefault(dim, positions), positions):
                    raise ValueError(
                        f"tied weights {' and '.join(map(repr, aliases))} would lose different channels"
                    )
        if dims:
            cut = Cut(tensor.shape, dims)
            replace_values_(tensor, _laid_out(cut(tensor.data), tensor))
            cuts |= dict.fromkeys(aliases, cut)
    return cuts


def replace_values_(tensor: Tensor, values: Tensor) -> None:
    """Give a parameter or buffer values of another shape, and no gradient; it stays the same object.

    If the graph of an earlier loss is still alive, its backward pass raises RuntimeError. Later losses are not
    affected.
    """
    tensor.grad = None
    if tensor.requires_grad:
        # the graph of an old loss keeps the node that accumulates the gradient, which expects the old shape; another
        # dtype in between makes torch create a new node
        with torch.enable_grad():
            get_gradient_edge(tensor).node.register_prehook(_refuse_old_loss)
        tensor.data = values.new_empty(
            0, dtype=torch.float16 if values.dtype != torch.float16 else torch.float32
        )
    tensor.data = values


def _refuse_old_loss(_: object) -> None:
    raise RuntimeError(
        "this loss was computed before structures were removed from the network; call backward() before the "
        "removal, or compute the loss again"
    )


def _laid_out(cut: Tensor, like: Tensor) -> Tensor:
    """Restore the channels-last memory format of a weight, which a cut turns into the default format."""
    last = torch.channels_last
    return (
        cut.contiguous(memory_format=last)
        if like.dim() == 4 and like.is_contiguous(memory_format=last)
        else cut
    )


def _checked(structures: Sequence[StructureFamily], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    sizes = {family.name: family.size for family in structures}
    if unknown := [name for name in keep if name not in sizes]:
        raise ValueError(f"masks of unknown families {unknown}; the network has {list(sizes)}")
    masks = {}
    for name, size in sizes.items():
        mask = keep.get(name, torch.ones(size, dtype=torch.bool))
        if not isinstance(mask, Tensor):
            raise TypeError(
                f"the mask of {name!r} is a {type(mask).__name__}; expected a boolean tensor ({size},)"
            )
        mask = mask.detach().cpu()
        if mask.dtype != torch.bool:
            raise TypeError(f"the mask of {name!r} is {mask.dtype}; expected torch.bool, True for what stays")
        if mask.shape != (size,):
            raise ValueError(f"the mask of {name!r} has shape {tuple(mask.shape)}; expected ({size},)")
        if not mask.any():
            raise ValueError(f"the mask of {name!r} keeps none of {size} structures; keep at least one")
        masks[name] = mask
    return masks


def _side(member: Member) -> tuple[str, tuple[tuple[str, int], ...], tuple[str, ...]]:
    return member.module, member.tensors, member.attributes


def _renumbered(member: Member, mask: Tensor, stays: Tensor) -> Member:
    own = mask[member.structures]
    return replace(
        member,
        size=int(stays.sum()),
        positions=(stays.cumsum(0) - 1)[member.positions[own]],
        structures=(mask.cumsum(0) - 1)[member.structures[own]],
    )
