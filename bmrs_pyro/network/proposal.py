"""From traced channels to structure families, not yet verified."""

from __future__ import annotations

__all__ = ["propose"]

from collections import defaultdict

import torch
from torch import nn

from bmrs_pyro.network.layers import Side
from bmrs_pyro.network.partition import Partition
from bmrs_pyro.network.structures import LeftOut, Member, StructureFamily
from bmrs_pyro.network.tracing import Occurrence, Trace

_HEADS = "num_heads"
_HEAD_WIDTHS = ("attn_dim", "all_head_size", "inner_dim")  # names in use for heads × channels per head


def propose(net: nn.Module, found: Trace) -> tuple[list[StructureFamily], list[LeftOut]]:
    """Number the structures and collect those that share a producer in families.

    Args:
        net: the traced network.
        found: where its channels go; attention heads are tied in it.

    Returns:
        The families in module order, and those that cannot be offered, with the reason.
    """
    _tie_heads(net, found)
    order = {name: index for index, (name, _) in enumerate(net.named_modules())}
    occurrences = sorted(found.occurrences, key=lambda one: order[one.module])
    producers = [one for one in occurrences if one.side.role == "produce"]
    families = Partition(found.partition.parents)
    for producer in producers:
        families.join(producer.labels.values())

    names: dict[int, str] = {}
    numbers: dict[int, dict[int, int]] = defaultdict(dict)
    for producer in producers:
        for _, label in sorted(producer.labels.items()):
            family = families.find(label)
            names.setdefault(family, f"theta.{producer.module}")
            numbers[family].setdefault(found.partition.find(label), len(numbers[family]))
    members: dict[int, list[Member]] = defaultdict(list)
    for one in occurrences:
        channels: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, label in sorted(one.labels.items()):
            family = families.find(label)
            channels[family].append((position, numbers[family][found.partition.find(label)]))
        for family, pairs in channels.items():
            members[family].append(_member(one.module, one.side, pairs))

    reasons = {families.find(label): why for labels, why in found.obstacles for label in labels}
    accepted, left_out = [], []
    for family, name in names.items():
        structure = StructureFamily(name, len(numbers[family]), tuple(members[family]))
        if reason := reasons.get(family) or _shortcoming(structure):
            left_out.append(LeftOut(name, reason))
        else:
            accepted.append(structure)
    return accepted, left_out


def _member(module: str, side: Side, pairs: list[tuple[int, int]]) -> Member:
    positions, structures = torch.tensor(pairs).T
    prefix = f"{module}." if module else ""
    tensors = tuple((prefix + name, dim) for name, dim in side.tensors)
    return Member(module, side.role, side.size, positions, structures, tensors, side.attributes)


def _shortcoming(structure: StructureFamily) -> str | None:
    if structure.size == 1:
        return "it is a single structure"
    if not structure.consumers:
        return "no layer reads it through its own module"
    return None


def _tie_heads(net: nn.Module, found: Trace) -> None:
    """Unite the channels of each attention head.

    Queries and keys meet inside a head, so their channels cannot leave one by one: attention is told by an
    owner with ``num_heads`` whose own layers write more channels to a consumer than it has inputs.
    """
    find = found.partition.find
    for consumer in [one for one in found.occurrences if one.side.role == "consume"]:
        owner, size = consumer.module.rpartition(".")[0], consumer.side.size
        attention = net.get_submodule(owner)
        heads = getattr(attention, _HEADS, None)
        if not isinstance(heads, int) or size % heads or len(consumer.labels) < size:
            continue
        tied = {find(label) for label in consumer.labels.values()}
        written = sum(
            find(label) in tied
            for one in found.occurrences
            if one.side.role == "produce" and one.module.rpartition(".")[0] == owner
            for label in one.labels.values()
        )
        if written <= size:
            continue
        width = size // heads
        for head in range(heads):
            found.partition.join(consumer.labels[head * width + offset] for offset in range(width))
        starts = {head: consumer.labels[head * width] for head in range(heads)}
        widths = tuple(name for name in _HEAD_WIDTHS if getattr(attention, name, None) == size)
        found.occurrences.append(Occurrence(owner, Side("carry", heads, (), (_HEADS,)), starts))
        if widths:
            found.occurrences.append(Occurrence(owner, Side("carry", size, (), widths), consumer.labels))
