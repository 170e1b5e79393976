"""What can be removed from a network: structure families, and where in the network they live."""

from __future__ import annotations

__all__ = ["LeftOut", "Member", "Role", "StructureFamily", "Structures"]

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Role = Literal["produce", "carry", "normalise", "query", "factor", "consume", "recur"]

# the attribute of a layer that counts them
_KINDS = {
    "num_heads": "heads",
    "hidden_size": "units",
    "out_channels": "channels",
    "out_features": "neurons",
    "nf": "neurons",  # of transformers' Conv1D
    "intermediate_dim": "neurons",
    "intermediate_size": "neurons",
    "embedding_dim": "features",
}


@dataclass(frozen=True, eq=False)
class Member:
    """One side of one layer, and which of its channels belong to which structure of a family.

    Channel ``positions[i]`` belongs to structure ``structures[i]``. A structure may own several channels
    of a side (a convolution's channel flattened into 25 features, an attention head), and a side may hold
    channels of several families (a concatenation).

    Attributes:
        module: name of the layer, or of the owner of a bare parameter.
        role: ``"produce"`` makes the channels, ``"carry"`` treats each one by itself (batch norm, depthwise
            convolution, …), ``"normalise"`` does so but for statistics over all of them, which the gains weigh,
            ``"query"`` multiplies them with others, so the gains multiply its outputs, and the sum over them is divided
            by the root of their number; ``"factor"`` does so without the root;
            ``"consume"`` mixes them: the gains multiply the inputs of the consumers, and ``"recur"``
            does so within a recurrent layer or fused experts: the gains multiply their weights.
        size: number of channels of this side, of all families together.
        positions: ``(n,)`` channels, ascending.
        structures: ``(n,)`` structures they belong to, from 0 to C − 1.
        tensors: state-dict names of the tensors with these channels, and the dimension they lie along.
        attributes: integer attributes of the module that count the channels.
    """

    module: str
    role: Role
    size: int
    positions: Tensor
    structures: Tensor
    tensors: tuple[tuple[str, int], ...]
    attributes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class StructureFamily:
    """A family of C structures of one kind, such as the channels of a residual stream.

    Attributes:
        name: Pyro site name: ``theta.`` and the name of the family's first producer.
        size: C.
        members: every place in the network that holds channels of the family.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    @property
    def layer(self) -> str:
        """Name of the first layer whose outputs are the family's channels."""
        return self.producers[0]

    @property
    def kind(self) -> str:
        """What the structures are: channels, groups of channels, neurons, heads, their channels, units or features."""
        if self.queries:
            return "head channels"
        counting = {
            attribute
            for member in self.members
            if member.role in ("carry", "normalise") or member.module == self.layer
            for attribute in member.attributes
        }
        kind = next((kind for attribute, kind in _KINDS.items() if attribute in counting), "structures")
        width = (
            max(len(member.positions) for member in self.members if member.module == self.layer) / self.size
        )
        if kind == "channels" and width > 1:
            return "groups"
        # a neuron has one output of a linear layer, or two where half of the outputs are gates
        return "heads" if kind == "neurons" and width > 2 else kind

    def label_of(self, number: int) -> str:
        """Layer, kind and number of one structure, such as ``conv2, channel 3``."""
        return f"{self.layer}, {self.kind.removesuffix('s')} {number}"

    @property
    def label(self) -> str:
        """Layer, size and kind, such as ``conv2, 16 channels``."""
        return f"{self.layer}, {self.size} {self.kind}"

    @property
    def producers(self) -> tuple[str, ...]:
        """Names of the layers whose outputs are the family's channels."""
        return tuple(member.module for member in self.members if member.role == "produce")

    @property
    def norms(self) -> tuple[Member, ...]:
        """The layer norms over the family's channels: the gains weigh their statistics."""
        return tuple(member for member in self.members if member.role == "normalise")

    @property
    def queries(self) -> tuple[Member, ...]:
        """The layers of queries, whose products with keys have the gains: their outputs are multiplied."""
        return tuple(member for member in self.members if member.role in ("query", "factor"))

    @property
    def consumers(self) -> tuple[Member, ...]:
        """The layers that read the family's channels: their inputs, or weights, are multiplied by the gains."""
        return tuple(member for member in self.members if member.role in ("consume", "recur"))

    def __repr__(self) -> str:
        """Show name, size, producers and consumers."""
        consumers = ", ".join(member.module for member in self.consumers)
        return f"StructureFamily({self.name!r}, {self.size}, {', '.join(self.producers)} -> {consumers})"


class LeftOut(NamedTuple):
    """A family that is not offered, and why."""

    name: str
    """Site name the family would have."""
    reason: str
    """Why its structures cannot be removed."""


class Structures(tuple[StructureFamily, ...]):
    """The families of a network, in module order; prints as a table.

    Attributes:
        left_out: the families found but not offered, with the reason.
    """

    left_out: tuple[LeftOut, ...]

    def __new__(cls, families: Iterable[StructureFamily], left_out: Iterable[LeftOut] = ()) -> Structures:
        """Collect families and what was left out."""
        self = super().__new__(cls, families)
        self.left_out = tuple(left_out)
        return self

    def __getnewargs__(self) -> tuple[tuple[StructureFamily, ...], tuple[LeftOut, ...]]:
        return tuple(self), self.left_out

    def __str__(self) -> str:
        """One line per family: layer, size, kind, name, producers and consumers; then what was left out, and why."""
        total = sum(family.size for family in self)
        lines = [f"{total} structures in {len(self)} families"]
        for family in self:
            consumers = ", ".join(member.module for member in family.consumers)
            lines.append(f"  {family.label} ({family.name}): {', '.join(family.producers)} -> {consumers}")
        lines += [f"  {name} left out: {reason}" for name, reason in self.left_out]
        return "\n".join(lines)
