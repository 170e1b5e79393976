"""Follow channels through attention: those of every head together, or those of all heads with the same number."""

from __future__ import annotations

__all__ = ["follow_channels", "follow_heads"]

from collections import defaultdict
from collections.abc import Callable, Sequence

from torch import Tensor

from bmrs_pyro.network.discovery.attention import AttentionArguments, AttentionCall
from bmrs_pyro.network.discovery.labelling import Labelling, unique_pairs
from bmrs_pyro.network.discovery.local_gradients import Source, channel_pairs, supports, touched
from bmrs_pyro.network.layers import output_side

Begin = Callable[[Tensor, str, int, Sequence[int]], Tensor]
"""Starts a new graph at a tensor, whose channels along a dimension have labels."""


def follow_channels(
    labelling: Labelling, modules: Sequence[str], out: Tensor, given: AttentionArguments, begin: Begin
) -> Tensor:
    """Unite the channels with the same number in all heads, of queries, keys and values, and follow these."""
    sources = [one for one in labelling.sources_of(given.query)[0] if one.dim is not None]
    pairs = channel_pairs(given.query, -1, sources)
    name = modules[-1]
    read = [labelling.read(x, x.dim() - 1, name) for x in (given.query, given.key, given.value)]
    for several in zip(*read, strict=True):
        labelling.found.partition.join([label for label in several if label >= 0])
    labels = read[0]
    for source, channel in zip(sources, pairs, strict=True):
        side = output_side(labelling.net.get_submodule(source.name))
        if side is not None and channel is not None:
            own = [-1] * side.size
            for position, number in unique_pairs(source, channel):
                own[position] = labels[number]
            labelling.occur(source.name, side._replace(role="query" if given.by_root else "factor"), own)
    labelling.found.attention.append(AttentionCall(tuple(modules), labels, out.shape[-3]))
    labelling.found.by_channel.append(labels[0])
    return begin(out, name, out.dim() - 1, labels)


def follow_heads(
    labelling: Labelling, modules: Sequence[str], out: Tensor, dim: int, shaped: Tensor, begin: Begin
) -> Tensor:
    """Unite the channels of each attention head, and follow the heads from here."""
    size = shaped.shape[dim]
    sources, _ = labelling.sources_of(shaped)
    if not sources:
        return out
    seen = supports(shaped, dim, sources, range(size))
    heads = [
        _heads_by_channel(source, one) for source, one in zip(sources, zip(*seen, strict=True), strict=True)
    ]
    if not any(0 < len(by) < size for one in heads for by in one.values()):
        return out  # nothing tells the heads apart
    labels = [labelling.found.partition.new() for _ in range(size)]
    for source, by_channel in zip(sources, heads, strict=True):
        for channel, by in by_channel.items():
            label = source.labels[channel]
            if label >= 0 and len(by) == size:
                labelling.found.fixed.append(
                    ([label], f"all heads of {modules[-1]!r} depend on each of them")
                )
            elif label >= 0:
                labelling.found.partition.join([label, *(labels[head] for head in by)])
    for source, one in zip(sources, zip(*seen, strict=True), strict=True):
        if source.dim is None:
            labelling.carry_heads(source, one, labels)
    labelling.found.attention.append(AttentionCall(tuple(modules), tuple(labels), shaped.shape[-1]))
    return begin(shaped, modules[-1], dim, labels).reshape(out.shape)


def _heads_by_channel(source: Source, seen: Sequence[Tensor | None]) -> dict[int, list[int]]:
    """Return the heads that each channel of a source has gone into."""
    heads: dict[int, list[int]] = defaultdict(list)
    for head, support in enumerate(seen):
        if support is not None and source.dim is not None:
            for channel in touched(source, support):
                heads[channel].append(head)
    return heads
