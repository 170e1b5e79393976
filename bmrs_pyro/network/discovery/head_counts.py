"""Integer attributes that count attention heads or parts of a split: found by their value and tested by a trial."""

from __future__ import annotations

__all__ = ["candidate_counts", "settle_counts"]

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import nn

from bmrs_pyro.network.discovery.attention import AttentionCall
from bmrs_pyro.network.discovery.labelling import Occurrence, Trace
from bmrs_pyro.network.discovery.random_inputs import RandomInputs
from bmrs_pyro.network.discovery.splits import Integers, part_counts, tie_equal_parts
from bmrs_pyro.network.folding import compact_
from bmrs_pyro.network.gates import Gates
from bmrs_pyro.network.inputs import Call, in_single_
from bmrs_pyro.network.layers import Side
from bmrs_pyro.network.outputs import output_error
from bmrs_pyro.network.structures import Member, StructureFamily
from bmrs_pyro.network.untouched import random_state_kept, runs, shared_copy, tensor_outputs

_MOST = 8  # integers of one kind of attention that are tried in all combinations
_MULTIPLES = (1, 2, 3)  # one layer may produce queries, keys and values
_TOLERANCE = 1e-4

Kind = tuple[type[nn.Module], str]  # an attribute of the modules of a class
_Integer = tuple[str, str, int]  # a module's name, its attribute and the value


def candidate_counts(net: nn.Module, call: Call, found: Trace) -> list[Occurrence]:
    """List the integer attributes that may count heads of an attention, channels of it or a norm, or parts of a split.

    A module reads a candidate while attention is called inside it. Its value is the number of heads, of key and value
    heads, or the number of channels of one, two or three times as many heads. So are the sizes of a split's parts. If
    none of these fits, a module may count the channels that the layer norms inside it normalise over.
    """
    norms = [one for one in found.occurrences if one.side.role == "normalise"]
    if not found.attention and not found.splits and not norms:
        return []
    find = found.partition.find
    stacks = [one.modules for one in found.attention] + [one.modules for one in found.splits]
    stacks += [_owners(one.module) for one in norms]
    read = _integers_read(net, call, set().union(*stacks))
    tie_equal_parts(found.splits, read, found.partition)
    counted: dict[_Integer, list[dict[int, int]]] = defaultdict(list)
    normalised: dict[_Integer, list[dict[int, int]]] = defaultdict(list)
    for attention in found.attention:
        for name in attention.modules:
            for attribute, value in sorted(read[name].items()):
                if isinstance(value, int) and (labels := _counted(attention, value, found)):
                    counted[name, attribute, value].append(
                        {place: find(label) for place, label in labels.items()}
                    )
    heads = set(counted)
    for split in found.splits:
        for name, attribute, part in part_counts(split, read):
            if (name, attribute, len(part)) not in heads:
                counted[name, attribute, len(part)].append(
                    {place: find(label) for place, label in enumerate(part) if label >= 0}
                )
    for norm in norms:
        for name in _owners(norm.module):
            for attribute, value in sorted(read[name].items()):
                if value == norm.side.size == len(norm.labels):
                    normalised[name, attribute, value].append(
                        {place: find(label) for place, label in norm.labels.items()}
                    )
    settled: dict[_Integer, dict[int, int]] = {}
    for key, several in (*counted.items(), *normalised.items()):
        # otherwise it would tie the heads of several attentions, or parts, inside the module
        if all(one == several[0] for one in several):
            settled.setdefault(key, several[0])
    return [
        Occurrence(name, Side("carry", value, (), (attribute,)), labels)
        for (name, attribute, value), labels in settled.items()
    ]


def _owners(name: str) -> tuple[str, ...]:
    """Return the names of the modules that a module lies in."""
    parts = name.split(".")
    return tuple(".".join(parts[:depth]) for depth in range(len(parts)))


def _counted(attention: AttentionCall, value: int, found: Trace) -> dict[int, int]:
    """Return the labels of the heads or channels that an integer counts; none if it counts neither."""
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
    """Keep the smallest set of candidates with which cutting a head has the effect of setting its gain to 0.

    Modules of one class are treated alike. The set must be the smallest: an integer that has such a value by chance (a
    patch size, a distance) may change nothing on these inputs.
    """
    modules = dict(net.named_modules())

    def kind(member: Member) -> Kind | None:
        layer = modules[member.module]
        counts = (
            member.role == "carry"
            and not member.tensors
            and member.attributes
            not in (
                ("groups",),
                ("num_groups",),
                ("in_channels",),
            )
        )
        return (type(layer), member.attributes[0].partition(".")[0]) if counts else None

    def only(family: StructureFamily, taken: set[Kind]) -> StructureFamily:
        members = tuple(one for one in family.members if (own := kind(one)) is None or own in taken)
        return replace(family, members=members)

    alike: dict[frozenset[Kind], list[StructureFamily]] = defaultdict(list)
    for family in families:
        if kinds := frozenset(own for member in family.members if (own := kind(member))):
            alike[kinds].append(family)
    if not alike:
        return list(families)
    net = _with_random_matrices(net)
    call = in_single_(net, call)  # the rounding of half precision would hide what counts
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
    """Whether cutting the first structure of each family, and more of large ones, has the effect of gains of 0."""
    copy = shared_copy(net)
    keep = {family.name: torch.arange(family.size) % 3 > 0 for family in families}
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
    return output_error(expected, actual) <= _TOLERANCE


def _with_random_matrices(net: nn.Module) -> nn.Module:
    """Copy a network, with random matrices that are large enough to make attention non-uniform."""
    copy = shared_copy(net)
    with random_state_kept(net):
        torch.manual_seed(0)
        for parameter in copy.parameters():
            if parameter.dim() > 1:
                size = (parameter.numel() / len(parameter)) ** -0.5
                parameter.data = torch.randn_like(parameter) * size
    return copy


def _integers_read(net: nn.Module, call: Call, names: set[str]) -> Mapping[str, dict[str, Integers]]:
    """Run a network and return the integers, and lists of them, that the named modules read of themselves."""
    found: dict[str, dict[str, Integers]] = defaultdict(dict)
    copy = shared_copy(net)
    for name in names:
        _watch_(copy.get_submodule(name), found[name])
    with torch.no_grad():
        tensor_outputs(copy, call)
    return found


def _watch_(module: nn.Module, found: dict[str, Integers]) -> None:
    own = type(module)

    def read(self: nn.Module, attribute: str) -> Any:
        value = own.__getattribute__(self, attribute)
        if type(value) is int and attribute in vars(self):
            found[attribute] = value
        elif (
            isinstance(value, (tuple, list))
            and attribute in vars(self)
            and all(type(one) is int for one in value)
        ):
            found[attribute] = tuple(value)
        return value

    module.__class__ = type(own.__name__, (own,), {"__getattribute__": read, "__module__": own.__module__})
