"""From traced channels to structure families, not yet verified."""

from __future__ import annotations

__all__ = ["propose"]

from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bmrs_pyro.network.discovery.labelling import Occurrence, Trace
from bmrs_pyro.network.discovery.partition import Partition
from bmrs_pyro.network.layers import Side, obstacle, output_side
from bmrs_pyro.network.structures import LeftOut, Member, StructureFamily


def propose(net: nn.Module, found: Trace) -> tuple[list[StructureFamily], list[LeftOut]]:
    """Number the structures and collect those that share a producer in families.

    Returns:
        The families in module order, and those that cannot be offered, with the reason.
    """
    order = {name: index for index, (name, _) in enumerate(net.named_modules())}
    occurrences = sorted(_merged(found), key=lambda one: order[one.module])
    producers = [one for one in occurrences if one.side.role == "produce"]
    families = _families(occurrences, found)
    names: dict[int, str] = {}
    numbers: dict[int, dict[int, int]] = defaultdict(dict)
    taken: Counter[str] = Counter()
    for producer in producers:
        for _, label in sorted(producer.labels.items()):
            family = families.find(label)
            if family not in names:
                taken[producer.module] += 1
                number = taken[producer.module]
                names[family] = f"theta.{producer.module}" + (f":{number}" if number > 1 else "")
            numbers[family].setdefault(found.partition.find(label), len(numbers[family]))
    members: dict[int, list[Member]] = defaultdict(list)
    for one in occurrences:
        channels: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, label in sorted(one.labels.items()):
            family = families.find(label)
            if family in numbers:  # else no layer produces it
                channels[family].append((position, numbers[family][found.partition.find(label)]))
        for family, pairs in channels.items():
            members[family].append(_member(one.module, one.side, pairs))

    reasons: dict[int, str] = {}
    for labels, why in found.obstacles:
        for label in labels:
            reasons.setdefault(families.find(label), why)
    accepted, left_out = [], []
    for family, name in names.items():
        structure = StructureFamily(name, len(numbers[family]), tuple(members[family]))
        if reason := reasons.get(family) or _shortcoming(structure):
            left_out.append(LeftOut(name, reason))
        else:
            accepted.append(structure)
    return accepted, left_out + _unseen(
        net, found, {one.module for several in members.values() for one in several}
    )


def _families(occurrences: Sequence[Occurrence], found: Trace) -> Partition:
    """Unite the structures of each producer; parts of a split that layers read by themselves are families of their own.

    At least one structure of a family stays, so that such a layer keeps a channel.
    """
    find = found.partition.find
    joined, families = Partition(found.partition.parents), Partition(found.partition.parents)
    for one in occurrences:
        if one.side.role == "produce":
            joined.join(one.labels.values())
    if not found.splits:
        return joined
    members: dict[int, set[int]] = defaultdict(set)
    for label in range(len(joined.parents)):
        members[joined.find(label)].add(find(label))
    split = {find(label) for one in found.splits for part in one.parts for label in part if label >= 0}
    readers: dict[int, list[int]] = defaultdict(list)
    for number, one in enumerate(occurrences):
        structures = {find(label) for label in one.labels.values()}
        owners = {joined.find(structure) for structure in structures}
        alone = one.side.tensors and len(one.labels) == one.side.size and len(owners) == 1
        if alone and structures & split and structures < members[owners.pop()]:
            for structure in structures:
                readers[structure].append(number)
    for several in members.values():
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for structure in several:
            alike[tuple(readers[structure])].append(structure)
        for group in alike.values():
            families.join(group)
    return families


def _unseen(net: nn.Module, found: Trace, seen: set[str]) -> list[LeftOut]:
    """List the modules that compute with their own matrices, through which channels cannot be followed."""
    fixed = {label: why for labels, why in found.fixed for label in labels}
    kept = {
        one.module: fixed[label]
        for one in found.occurrences
        for label in one.labels.values()
        if label in fixed
    }
    left_out = []
    for name, module in net.named_modules():
        own = [key for key, weight in module._parameters.items() if weight is not None and _is_matrix(weight)]
        if len(list(module.parameters())) > len(list(module.parameters(recurse=False))):
            # beside layers, others such as positions or scales produce no channels
            own = [key for key in own if (f"{name}.{key}" if name else key) in found.multiplied]
        if own and name not in seen:
            if name in found.called:
                reason = kept.get(
                    name, f"{name!r} treats channels that cannot be removed from the layers before"
                )
            elif output_side(module):
                reason = f"{name!r} is not called; other code may use its weight"
            else:
                kind, names = f"{type(module).__name__} {name!r}" if name else "the network", ", ".join(own)
                # torch's own layers, such as Bilinear, are one layer whatever their weights' shape
                foreign = not type(module).__module__.startswith("torch.nn.")
                fused = foreign and any(module._parameters[key].dim() > 2 for key in own)
                why = "for several layers in one tensor" if fused else "not in layers"
                reason = obstacle(module, name) or f"{kind} has weights of its own ({names}), {why}"
            left_out.append(LeftOut(f"theta.{name}", reason))
    return left_out


def _is_matrix(weight: Tensor) -> bool:
    return sum(size > 1 for size in weight.shape) > 1


def _merged(found: Trace) -> list[Occurrence]:
    """Merge the occurrences of a layer's side over several calls, without the channels that have to stay."""
    sides: dict[tuple[str, Side], dict[int, int]] = defaultdict(dict)
    for one in found.occurrences:
        labels = sides[one.module, one.side]
        for position, label in one.labels.items():
            found.partition.join([labels.setdefault(position, label), label])
    fixed = {found.partition.find(label) for labels, _ in found.fixed for label in labels}
    return [
        Occurrence(module, side, free)
        for (module, side), labels in sides.items()
        if (free := {p: label for p, label in labels.items() if found.partition.find(label) not in fixed})
    ]


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
