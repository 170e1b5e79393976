"""Integers of modules that follow the number of attention heads, found by their value and proven by trial."""

from __future__ import annotations

__all__ = ["candidate_counts", "settle_counts"]

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import nn

from bmrs_pyro.network.attention import AttentionCall
from bmrs_pyro.network.folding import compact_
from bmrs_pyro.network.gates import Gates
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.labelling import Occurrence, Trace
from bmrs_pyro.network.layers import Side
from bmrs_pyro.network.random_inputs import RandomInputs
from bmrs_pyro.network.structures import Member, StructureFamily
from bmrs_pyro.network.untouched import random_state_kept, runs, shared_copy, tensor_outputs

_MOST = 8  # integers of one kind of attention that are tried in all combinations
_MULTIPLES = (1, 2, 3)  # queries, keys and values may be written by one layer
_TOLERANCE = 1e-4

Kind = tuple[type[nn.Module], str]  # an attribute of the modules of a class


def candidate_counts(net: nn.Module, call: Call, found: Trace) -> list[Occurrence]:
    """List the integers that may count heads, or their channels, around each attention.

    They are those that a module reads while the attention is called in it, and that are the number of heads, of key
    and value heads, or of the channels of one, two or three times as many.

    Args:
        net: the network; left as it is.
        call: how it is called.
        found: where its channels go.
    """
    if not found.attention:
        return []
    find = found.partition.find
    read = _integers_read(net, call, {name for one in found.attention for name in one.modules})
    counted: dict[tuple[str, str, int], list[dict[int, int]]] = defaultdict(list)
    for attention in found.attention:
        for name in attention.modules:
            for attribute, value in sorted(read[name].items()):
                if labels := _counted(attention, value, found):
                    counted[name, attribute, value].append(
                        {place: find(label) for place, label in labels.items()}
                    )
    return [
        Occurrence(name, Side("carry", value, (), (attribute,)), several[0])
        for (name, attribute, value), several in counted.items()
        if all(
            one == several[0] for one in several
        )  # else it would tie the heads of attentions that it is around
    ]


def _counted(attention: AttentionCall, value: int, found: Trace) -> dict[int, int]:
    """Return the labels of what an integer counts; none if it counts neither heads nor channels of them."""
    heads = list(attention.labels)
    groups = list({found.partition.find(label): label for label in heads}.values())
    for labels in (heads, groups):
        if value == len(labels):
            return dict(enumerate(labels))
        for times in _MULTIPLES:
            if value == times * len(labels) * attention.width:
                return dict(enumerate([one for label in labels for one in [label] * attention.width] * times))
    return {}


def settle_counts(net: nn.Module, call: Call, families: Sequence[StructureFamily]) -> list[StructureFamily]:
    """Keep of the candidates the smallest set with which the network does without a head as if its gain were 0.

    Modules of one class are treated alike. An integer that has such a value by chance, a patch size or a distance, may
    show nothing when it changes on these inputs: hence the smallest.

    Args:
        net: the network; left as it is.
        call: how it is called.
        families: of the network, with candidates among their members.
    """
    modules = dict(net.named_modules())

    def kind(member: Member) -> Kind | None:
        layer = modules[member.module]
        counts = not member.tensors and member.attributes not in (
            ("groups",),
            ("num_groups",),
            ("in_channels",),
        )
        return (type(layer), member.attributes[0]) if counts else None

    def only(family: StructureFamily, taken: set[Kind]) -> StructureFamily:
        members = tuple(one for one in family.members if (own := kind(one)) is None or own in taken)
        return replace(family, members=members)

    alike: dict[frozenset[Kind], list[StructureFamily]] = defaultdict(list)
    for family in families:
        if kinds := frozenset(own for member in family.members if (own := kind(member))):
            alike[kinds].append(family)
    if not alike:
        return list(families)
    inputs = RandomInputs(call, lambda one: runs(net, one))
    random = torch.Generator().manual_seed(0)
    calls = [inputs.draw(length, random) for length in range(3)]  # a single token would show nothing
    taken: dict[Kind, bool] = {}
    for kinds, concerned in alike.items():
        settled = {one for one in kinds if taken.get(one)}
        open_ = sorted((one for one in kinds if one not in taken), key=str)[:_MOST]
        subsets = (set(some) for n in range(len(open_) + 1) for some in combinations(open_, n))
        works = (
            some
            for some in subsets
            if all(_works(net, one, [only(f, settled | some) for f in concerned]) for one in calls)
        )
        chosen = next(works, set())
        taken |= {one: one in chosen for one in open_}
    return [only(family, {one for one, stays in taken.items() if stays}) for family in families]


@torch.no_grad()
def _works(net: nn.Module, call: Call, families: Sequence[StructureFamily]) -> bool:
    """Whether the network does without the first structure of each family as if its gain were 0."""
    copy = _enlivened(net)
    keep = {family.name: torch.arange(family.size) > 0 for family in families}
    theta = {name: mask.to(next(net.parameters())) for name, mask in keep.items()}
    gates = Gates(copy, families)
    with gates.open(theta):
        expected = tensor_outputs(copy, call)
    Gates.detach_(copy)
    try:
        compact_(copy, families, keep, theta)
        actual = tensor_outputs(copy, call)
    except Exception:  # whatever the network's own code raises with wrong numbers
        return False
    return all(
        one.shape == other.shape and bool((one - other).abs().max() <= _TOLERANCE * one.abs().max())
        for one, other in zip(expected, actual, strict=True)
    )


def _enlivened(net: nn.Module) -> nn.Module:
    """Copy a network, with matrices so large that attention is not uniform."""
    copy = shared_copy(net)
    with random_state_kept(net):
        torch.manual_seed(0)
        for parameter in copy.parameters():
            if parameter.dim() > 1:
                size = (parameter.numel() / len(parameter)) ** -0.5
                parameter.data = torch.randn_like(parameter) * size
    return copy


def _integers_read(net: nn.Module, call: Call, names: set[str]) -> Mapping[str, dict[str, int]]:
    """Run a network and return the integers that some of its modules read of themselves, by module."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    copy = shared_copy(net)
    for name in names:
        _watch_(copy.get_submodule(name), found[name])
    with torch.no_grad():
        tensor_outputs(copy, call)
    return found


def _watch_(module: nn.Module, found: dict[str, int]) -> None:
    own = type(module)

    def read(self: nn.Module, attribute: str) -> Any:
        value = own.__getattribute__(self, attribute)
        if type(value) is int and attribute in vars(self):
            found[attribute] = value
        return value

    module.__class__ = type(own.__name__, (own,), {"__getattribute__": read, "__module__": own.__module__})
