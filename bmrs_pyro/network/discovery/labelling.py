"""Labels of channels: which labels have reached which side of a layer, and which can only be removed together."""

from __future__ import annotations

__all__ = ["Labelling", "Occurrence", "Trace", "unique_pairs"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.network.discovery.attention import AttentionCall
from bmrs_pyro.network.discovery.local_gradients import (
    Source,
    channel_pairs,
    repeated_pairs,
    sources_of,
    supports,
    touched,
)
from bmrs_pyro.network.discovery.partition import Partition
from bmrs_pyro.network.discovery.splits import SplitCall
from bmrs_pyro.network.layers import Side, obstacle, parameter_side

Labels = dict[int, int]  # channel -> label

_ONE_BY_ONE = 4096  # largest number of channels that are examined one by one


@dataclass(frozen=True)
class Occurrence:
    """One side of one layer, and the labels that have reached its channels."""

    module: str
    side: Side
    labels: Labels


@dataclass(frozen=True)
class Trace:
    """Where the channels of a network go.

    Attributes:
        partition: labels that can only be removed together are in one set.
        occurrences: the layers the labels have reached.
        obstacles: labels that cannot be removed, and why.
        fixed: labels that stay while others of the same layer can be removed, and why.
        attention: the attention operations.
        by_channel: of those whose channels are followed instead of whole heads, the label of the first channel.
        splits: the splits of channels.
        called: names of the layers that are called.
        multiplied: names of the parameters that have been a factor of a matrix product or a convolution.
        unread: names of the layers whose outputs are added or multiplied to others, and then read by nothing.
    """

    partition: Partition = field(default_factory=Partition)
    occurrences: list[Occurrence] = field(default_factory=list)
    obstacles: list[tuple[Iterable[int], str]] = field(default_factory=list)
    fixed: list[tuple[Iterable[int], str]] = field(default_factory=list)
    attention: list[AttentionCall] = field(default_factory=list)
    by_channel: list[int] = field(default_factory=list)
    splits: list[SplitCall] = field(default_factory=list)
    called: set[str] = field(default_factory=set)
    multiplied: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)

    @property
    def attentions_by_channel(self) -> int:
        """Number of families of channels that heads are followed by."""
        return len({self.partition.find(label) if label >= 0 else label for label in self.by_channel})


class Labelling:
    """Gives every channel that a layer reads the label of the produced channel that it was computed from."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.found = net, Trace()
        self.known: dict[int, Source] = {}
        self.dead: set[int] = set()
        self.reached: set[int] = set()  # sources that a layer reads, or that are put out
        self.bare: list[tuple[str, Side, list[int]]] = []  # parameters, and the label of each row
        self.named: dict[object, str] = {}  # nodes of the graph after layers that may mix channels

    def read(self, x: Tensor, dim: int, reader: str) -> tuple[int, ...]:
        """Return the label of every channel that a layer reads, −1 for none; unite labels that meet in a channel."""
        sources, nodes = self.sources_of(x)
        if not sources:
            return (-1,) * x.shape[dim]
        labels: list[list[int]] = [[] for _ in range(x.shape[dim])]
        channels = channel_pairs(x, dim, sources)
        several = []
        for source, channel in zip(sources, channels, strict=True):
            if source.dim is not None and channel is not None:
                self._meet(source, unique_pairs(source, channel), labels, reader)
            elif source.dim is not None:
                several.append(source)
        why = next((self.named[node] for node in nodes if node in self.named), None)
        self._several(x, dim, several, labels, (reader, why))
        read = tuple(self._joined(one) for one in labels)
        for source, channel in zip(sources, channels, strict=True):
            if source.dim is None and channel is not None:
                self._carry(source, channel, read)
            elif source.dim is None and 1 < source.tensor.numel() < len(read) <= _ONE_BY_ONE:
                # an entry per head, say, goes into all channels of the head
                seen = [support for (support,) in supports(x, dim, [source], range(len(read)))]
                self.carry_heads(source, seen, read)
        return read

    def sources_of(self, x: Tensor) -> tuple[list[Source], list[Any]]:
        """Return the sources of a tensor that is read or put out, and the nodes of its graph."""
        sources, nodes = sources_of(x, self.known)
        self.reached.update(id(source.tensor) for source in sources)
        return sources, nodes

    def read_unread(self, sums: Iterable[Tensor]) -> None:
        """Read the results of additions and products that nothing else reads: their operands have the same channels."""
        for result in sums:
            for source in sources_of(result, self.known)[0]:
                if source.dim is not None and id(source.tensor) not in self.reached:
                    self.found.unread.add(source.name)
                    self.read(result, source.dim - source.tensor.dim() + result.dim(), source.name)
                    break

    def channels(self, x: Tensor, dim: int) -> list[int]:
        """Return a label of every channel along a dimension, −1 where it is not one channel of a layer."""
        sources = [one for one in sources_of(x, self.known)[0] if one.dim is not None]
        labels = [-1] * x.shape[dim]
        for source, channel in zip(sources, channel_pairs(x, dim, sources), strict=True):
            pairs = dict(unique_pairs(source, channel)) if channel is not None else {}
            if len(set(pairs.values())) == len(pairs):
                for own, other in pairs.items():
                    labels[other] = max(labels[other], source.labels[own])
        return labels

    def separate(self, x: Tensor, dim: int) -> bool:
        """Whether every channel along a dimension is a single channel of each layer that it comes from."""
        sources = [one for one in sources_of(x, self.known)[0] if one.dim is not None]
        pairs = channel_pairs(x, dim, sources) if sources else []
        for source, channel in zip(sources, pairs, strict=True):
            others = [] if channel is None else [other for _, other in unique_pairs(source, channel)]
            if len({*others}) < max(len(others), 1):
                return False
        return bool(sources)

    def _joined(self, labels: list[int]) -> int:
        if not labels:
            return -1
        self.found.partition.join(labels)
        return labels[0]

    def _meet(
        self, source: Source, pairs: list[tuple[int, int]], labels: list[list[int]], reader: str
    ) -> None:
        own, theirs = {one for one, _ in pairs}, {other for _, other in pairs}
        if len(pairs) > max(len(own), len(theirs)) and len(own) > 1:
            self.obstruct(source, f"{reader!r} reads them along another dimension")
            return
        for channel, other in pairs:
            if source.labels[channel] >= 0:
                labels[other].append(source.labels[channel])

    def _several(
        self,
        x: Tensor,
        dim: int,
        sources: list[Source],
        labels: list[list[int]],
        reader: tuple[str, str | None],
    ) -> None:
        """Look one by one at the channels of x that share elements of a source."""
        n, (name, mixing) = x.shape[dim], reader
        for source in sources:
            if n > 1 and len(source.labels) == 1:  # such as a gate; it stays, and they can leave
                self.obstruct(source, f"several channels that {name!r} reads depend on this single one")
        sources = [source for source in sources if id(source.tensor) not in self.dead]
        probes = supports(x, dim, sources, sorted({0, n // 2, n - 1})) if sources else []
        left = []
        for source, seen in zip(sources, zip(*probes, strict=True), strict=True):
            if any(one is not None and len(touched(source, one)) > 1 for one in seen):
                self.obstruct(source, mixing or f"they are mixed before {name!r} reads them")
            elif n > len(source.labels) and (pairs := repeated_pairs(x, dim, source)) is not None:
                self._meet(source, pairs, labels, name)
            elif n > _ONE_BY_ONE:
                self.obstruct(source, f"they are repeated among the {n} channels that {name!r} reads")
            else:
                left.append(source)
        if not left:
            return
        for source, seen in zip(left, zip(*supports(x, dim, left, range(n)), strict=True), strict=True):
            pairs = [
                (own, other)
                for other, one in enumerate(seen)
                if one is not None
                for own in touched(source, one)
            ]
            if n > 1 and len({own for own, _ in pairs}) * n == len(pairs):
                self.obstruct(source, f"all channels that {name!r} reads depend on each of them")
            else:
                self._meet(source, pairs, labels, name)

    def _carry(self, source: Source, channel: Tensor, labels: Sequence[int]) -> None:
        """Note along which dimension a bare parameter has an entry, or slice, per channel."""
        if channel.dim() == 1:  # one number per channel, as norms have: the usual case
            own = [{labels[c]} if c >= 0 and labels[c] >= 0 else set() for c in channel.tolist()]
            self._occur_parameter(source, [own])
            return
        rows_of = [
            [
                {labels[c] for c in row.unique().tolist() if c >= 0 and labels[c] >= 0}
                for row in channel.movedim(dim, 0).reshape(size, -1)
            ]
            for dim, size in enumerate(channel.shape)
        ]
        self._occur_parameter(source, rows_of)

    def carry_heads(self, source: Source, seen: Sequence[Tensor | None], labels: Sequence[int]) -> None:
        """Note along which dimension a bare parameter has an entry, or slice, per head."""
        rows_of: list[list[set[int]]] = [[set() for _ in range(size)] for size in source.tensor.shape]
        for support, label in zip(seen, labels, strict=True):
            for dim, rows in enumerate(rows_of if support is not None and label >= 0 else []):
                assert support is not None
                for row in support.movedim(dim, 0).reshape(len(rows), -1).any(1).nonzero().flatten().tolist():
                    rows[row].add(label)
        self._occur_parameter(source, rows_of)

    def _occur_parameter(self, source: Source, rows_of: Sequence[Sequence[set[int]]]) -> None:
        """Record the dimension along which a parameter's rows have different labels, but each row a single one."""
        find = self.found.partition.find
        owner, _, name = source.name.rpartition(".")
        assert isinstance(source.tensor, nn.Parameter)
        for dim, rows in enumerate(rows_of):
            roots = [{find(label) for label in row} for row in rows]
            if all(len(one) < 2 for one in roots) and len(set().union(*roots)) > 1:
                side = parameter_side(self.net.get_submodule(owner), name, source.tensor, dim)
                self.bare.append((owner, side, [next(iter(row), -1) for row in rows]))
                return

    def occur(self, module: str, side: Side, labels: Sequence[int]) -> None:
        """Note which labels, −1 for none, have reached a side of a layer."""
        reached = {position: label for position, label in enumerate(labels) if label >= 0}
        if reached:
            self.found.occurrences.append(Occurrence(module, side, reached))
            if reason := obstacle(self.net.get_submodule(module), module):
                self.found.obstacles.append((reached.values(), reason))

    def obstruct(self, source: Source, reason: str) -> None:
        """Record why the channels of a source cannot be removed."""
        self.dead.add(id(source.tensor))
        self.found.obstacles.append(([label for label in source.labels if label >= 0], reason))


def unique_pairs(source: Source, channel: Tensor) -> list[tuple[int, int]]:
    """Return pairs of a source's channel and the reader's channel that it has gone into."""
    assert source.dim is not None
    rows = channel.movedim(source.dim, 0).reshape(channel.shape[source.dim], -1)
    last = rows.amax(1)
    if bool(
        ((rows == last.unsqueeze(1)) | (rows < 0)).all()
    ):  # the usual case: every channel has gone into one
        return [(own, other) for own, other in enumerate(last.tolist()) if other >= 0]
    own = torch.arange(channel.shape[source.dim], device=channel.device)
    shape = [1] * channel.dim()
    shape[source.dim] = -1
    own = own.view(shape).expand_as(channel)
    read = channel >= 0
    codes = (own[read] * (int(channel.max()) + 1) + channel[read]).unique().tolist() if read.any() else []
    width = int(channel.max()) + 1
    return [divmod(code, width) for code in codes]
