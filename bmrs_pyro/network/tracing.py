"""Follow every channel through a network, from the layer that writes it to the layers that read it.

Every output channel of every layer gets a label. Where a layer reads a tensor, gradients tell which channels have
gone into which of its inputs. Labels that meet there are united: to remove one of their channels is to remove them all.
"""

from __future__ import annotations

__all__ = ["Occurrence", "Trace", "trace"]

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from bmrs_pyro.network.attention import AttentionCall, heads_of, is_attention
from bmrs_pyro.network.inputs import Call, batch_size
from bmrs_pyro.network.layers import (
    Side,
    channel_dim,
    group_side,
    input_side,
    obstacle,
    output_side,
    parameter_side,
)
from bmrs_pyro.network.local_gradients import Source, channel_pairs, sources_of, supports
from bmrs_pyro.network.nested import leaves
from bmrs_pyro.network.partition import Partition
from bmrs_pyro.network.untouched import tensor_outputs

Labels = dict[int, int]  # channel -> label

# activations that pass no gradient on in places; the trace has a sigmoid for them
_FLAT = {
    *(functional.relu, functional.relu6, functional.hardtanh, functional.hardswish, functional.hardsigmoid),
    *(functional.threshold, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, Tensor.clamp, torch.clamp),
}
_ONE_BY_ONE = 4096  # most channels that are looked at one by one


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
    """

    partition: Partition = field(default_factory=Partition)
    occurrences: list[Occurrence] = field(default_factory=list)
    obstacles: list[tuple[Iterable[int], str]] = field(default_factory=list)
    fixed: list[tuple[Iterable[int], str]] = field(default_factory=list)
    attention: list[AttentionCall] = field(default_factory=list)


def trace(net: nn.Module, call: Call) -> Trace:
    """Follow every channel through a network, each module in the mode it is in.

    Args:
        net: the network; its parameters must require gradients. Use a copy: hooks stay, and half precision is left.
        call: how it is called.
    """
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in net.parameters()):
        net.float()
        call = call.map(lambda x: x.float() if x.is_floating_point() else x)
    tracer = _Tracer(net, batch_size((call.args, call.kwargs)) or 1)
    with tracer:
        outputs = tensor_outputs(net, call)
    for output in outputs:
        tracer.end(output)
    return tracer.found


class _Tracer(TorchFunctionMode):
    """Looks at what layers read, and has each start a graph of its own with what it puts out."""

    def __init__(self, net: nn.Module, batch: int) -> None:
        super().__init__()
        self.net, self.found, self.batch = net, Trace(), batch
        self.known: dict[int, Source] = {}
        self.dead: set[int] = set()
        self.named: dict[object, str] = {}  # nodes of the graph after layers that may mix channels
        self.stack: list[str] = []
        self.written: dict[str, tuple[int, ...]] = {}
        self.random = torch.Generator().manual_seed(0)
        for name, module in net.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True)
            module.register_forward_hook(partial(self._leave, name), with_kwargs=True)
            if output_side(module) is None:
                for own, parameter in module.named_parameters(name, recurse=False):
                    self.known[id(parameter)] = Source(parameter, own)

    def end(self, output: Tensor) -> None:
        """Note what has gone into an output of the network."""
        sources = [one for one in sources_of(output, self.known)[0] if one.dim is not None]
        if sources:
            output = output.real if output.is_complex() else output
            for source, gradient in zip(
                sources,
                torch.autograd.grad(
                    output.sum(), [s.tensor for s in sources], retain_graph=True, allow_unused=True
                ),
                strict=True,
            ):
                if gradient is not None:
                    self._obstruct(source, "they are outputs of the network")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _FLAT and isinstance(args[0], Tensor):
            in_place = func.__name__.endswith("_") or bool((kwargs or {}).get("inplace"))
            return args[0].sigmoid_() if in_place else args[0].sigmoid()
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.requires_grad:
            with torch._C.DisableTorchFunction():
                if is_attention(func, args) and (heads := heads_of(args, out, self.batch)):
                    return self._attend(out, *heads)
        return out

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.stack.append(name)
        x = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
        if x is None:
            return
        with torch._C.DisableTorchFunction():
            written, read = output_side(module), input_side(module)
            if isinstance(module, nn.Embedding):
                self.written[name] = ()
            elif read is not None:
                labels = self._read(x, channel_dim(module, x), name)
                self._occur(name, read, labels)
                if isinstance(module, _ConvNd) and module.groups > 1:
                    self.written[name] = self._through_groups(name, module, labels)
            elif written is not None and written.role == "carry":
                self.written[name] = labels = self._read(x, channel_dim(module, x), name)
                if isinstance(module, nn.GroupNorm):
                    self.written[name] = self._through_groups(name, module, labels)

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        self.stack.pop()
        side = output_side(module)
        if side is None:
            own = any(True for _ in module.parameters(recurse=False))
            if own or "norm" in type(module).__name__.lower():
                nodes = [x.grad_fn for x in leaves(output) if isinstance(x, Tensor) and x.grad_fn is not None]
                self.named.update(dict.fromkeys(nodes, _does(module, name)))
            return None
        if not isinstance(output, Tensor) or not output.requires_grad:
            return None
        with torch._C.DisableTorchFunction():
            if side.role == "produce":
                if name not in self.written or not self.written[name]:
                    self.written[name] = tuple(self.found.partition.new() for _ in range(side.size))
                labels = self.written[name]
            else:
                labels = self.written[name]
            self._occur(name, side, labels)
            return self._begin(output, name, channel_dim(module, output), labels)

    def _begin(self, output: Tensor, name: str, dim: int, labels: Sequence[int]) -> Tensor:
        """Start a new graph with a layer's output, at values at which no activation is flat."""
        values = torch.empty(output.shape).uniform_(0.2, 0.9, generator=self.random).to(output.detach())
        leaf = torch.empty_like(output, requires_grad=False).copy_(values).requires_grad_()
        self.known[id(leaf)] = Source(leaf, name, dim % output.dim(), tuple(labels))
        return leaf.clone()

    def _occur(self, module: str, side: Side, labels: Sequence[int]) -> None:
        reached = {position: label for position, label in enumerate(labels) if label >= 0}
        if reached:
            self.found.occurrences.append(Occurrence(module, side, reached))
            if reason := obstacle(self.net.get_submodule(module), module):
                self.found.obstacles.append((reached.values(), reason))

    def _obstruct(self, source: Source, reason: str) -> None:
        self.dead.add(id(source.tensor))
        self.found.obstacles.append(([label for label in source.labels if label >= 0], reason))

    def _through_groups(
        self, name: str, layer: _ConvNd | nn.GroupNorm, labels: Sequence[int]
    ) -> tuple[int, ...]:
        """Unite the labels of each group; return those of the outputs."""
        groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else layer.groups
        out = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.out_channels
        firsts = []
        for group in range(groups):
            width = len(labels) // groups
            own = [label for label in labels[group * width : (group + 1) * width] if label >= 0]
            self.found.partition.join(own)
            firsts.append(own[0] if own else -1)
        self._occur(name, group_side(layer), firsts)
        return tuple(firsts[channel * groups // out] for channel in range(out))

    def _read(self, x: Tensor, dim: int, reader: str) -> tuple[int, ...]:
        """Return the label of every channel that a layer reads; unite those that meet in one."""
        labels: list[list[int]] = [[] for _ in range(x.shape[dim])]
        sources, nodes = sources_of(x, self.known)
        if sources:
            pairs, gradients = channel_pairs(x, dim, sources)
            several = []
            for source, channel, gradient in zip(sources, pairs, gradients, strict=True):
                if source.dim is None or gradient is None:
                    continue
                if channel is None:
                    several.append(source)
                    continue
                self._meet(source, _unique(source, channel), labels, reader)
            self._several(x, dim, several, labels, reader, nodes)
        read = tuple(self._joined(one) for one in labels)
        if sources:
            for source, channel in zip(sources, pairs, strict=True):
                if source.dim is None and channel is not None and channel.dim():
                    self._carry(source, channel, read)
        return read

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
            self._obstruct(source, f"{reader!r} reads them along another dimension")
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
        reader: str,
        nodes: Sequence[object],
    ) -> None:
        """Look one by one at the channels of x that share elements of a source."""
        n = x.shape[dim]
        sources = [source for source in sources if id(source.tensor) not in self.dead]
        if not sources:
            return
        probes = sorted({0, n // 2, n - 1})
        mixed = {
            index
            for channel in supports(x, dim, sources, probes)
            for index, (source, support) in enumerate(zip(sources, channel, strict=True))
            if support is not None and len(_touched(source, support)) > 1
        }
        why = next((self.named[node] for node in nodes if node in self.named), None)
        for index in mixed:
            self._obstruct(sources[index], why or f"they are mixed before {reader!r} reads them")
        sources = [source for index, source in enumerate(sources) if index not in mixed]
        if n > _ONE_BY_ONE:
            for source in sources:
                self._obstruct(source, f"they are repeated among the {n} channels that {reader!r} reads")
            return
        if not sources:
            return
        pairs: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for other, channel in enumerate(supports(x, dim, sources, range(n))):
            for index, (source, support) in enumerate(zip(sources, channel, strict=True)):
                if support is not None:
                    pairs[index] += [(own, other) for own in _touched(source, support)]
        for index, source in enumerate(sources):
            if n > 1 and len({own for own, _ in pairs[index]}) * n == len(pairs[index]):
                self._obstruct(source, f"all channels that {reader!r} reads depend on each of them")
            else:
                self._meet(source, pairs[index], labels, reader)

    def _carry(self, source: Source, channel: Tensor, labels: Sequence[int]) -> None:
        """Note along which dimension a bare parameter has an entry, or slice, per channel."""
        find = self.found.partition.find
        for dim, size in enumerate(source.tensor.shape):
            if size == 1:
                continue
            rows = [
                {labels[c] for c in row.unique().tolist() if c >= 0 and labels[c] >= 0}
                for row in channel.movedim(dim, 0).reshape(size, -1)
            ]
            if all(len({find(label) for label in row}) < 2 for row in rows) and any(rows):
                if sum(map(len, rows)) > 0 and len({find(label) for row in rows for label in row}) == 1:
                    continue
                self._occur_parameter(source, dim, [next(iter(row), -1) for row in rows])
                return

    def _occur_parameter(self, source: Source, dim: int, labels: Sequence[int]) -> None:
        owner, _, name = source.name.rpartition(".")
        assert isinstance(source.tensor, nn.Parameter)
        self._occur(owner, parameter_side(name, source.tensor, dim), labels)

    def _attend(self, out: Tensor, dim: int, shaped: Tensor) -> Tensor:
        """Unite the channels of each attention head, and follow the heads from here."""
        if True:
            size = shaped.shape[dim]
            sources, _ = sources_of(shaped, self.known)
            if not sources:
                return out
            seen = supports(shaped, dim, sources, range(size))
            labels = [self.found.partition.new() for _ in range(size)]
            touched: list[dict[int, list[int]]] = []
            for index, source in enumerate(sources):
                by_channel: dict[int, list[int]] = defaultdict(list)
                for head in range(size):
                    support = seen[head][index]
                    if support is not None and source.dim is not None:
                        for channel in _touched(source, support):
                            by_channel[channel].append(head)
                touched.append(by_channel)
            if not any(0 < len(by) < size for one in touched for by in one.values()):
                return out
            for source, by_channel in zip(sources, touched, strict=True):
                shared = [source.labels[c] for c, by in by_channel.items() if len(by) == size]
                self.found.fixed.append(
                    ([label for label in shared if label >= 0], f"all heads of {self.stack[-1]!r} share them")
                )
                for channel, by in by_channel.items():
                    if len(by) < size and source.labels[channel] >= 0:
                        self.found.partition.join([source.labels[channel], *(labels[head] for head in by)])
            for index, source in enumerate(sources):
                if source.dim is None:
                    self._carry_heads(source, [one[index] for one in seen], labels)
            self.found.attention.append(AttentionCall(tuple(self.stack), tuple(labels), shaped.shape[-1]))
            return self._begin(shaped, self.stack[-1], dim, labels).reshape(out.shape)

    def _carry_heads(self, source: Source, seen: list[Tensor | None], labels: Sequence[int]) -> None:
        find = self.found.partition.find
        for dim, size in enumerate(source.tensor.shape):
            rows: list[set[int]] = [set() for _ in range(size)]
            for support, label in zip(seen, labels, strict=True):
                if support is not None:
                    for row in support.movedim(dim, 0).reshape(size, -1).any(1).nonzero().flatten().tolist():
                        rows[row].add(label)
            roots = [{find(label) for label in row} for row in rows]
            if all(len(one) < 2 for one in roots) and len(set().union(*roots)) > 1:
                self._occur_parameter(source, dim, [next(iter(row), -1) for row in rows])
                return


def _touched(source: Source, support: Tensor) -> list[int]:
    assert source.dim is not None
    whole: list[int] = (
        support.movedim(source.dim, 0)
        .reshape(support.shape[source.dim], -1)
        .any(1)
        .nonzero()
        .flatten()
        .tolist()
    )
    return whole


def _unique(source: Source, channel: Tensor) -> list[tuple[int, int]]:
    """Return which channels of a source have gone into which of the reader's."""
    assert source.dim is not None
    own = torch.arange(channel.shape[source.dim], device=channel.device)
    shape = [1] * channel.dim()
    shape[source.dim] = -1
    own = own.view(shape).expand_as(channel)
    read = channel >= 0
    codes = (own[read] * (int(channel.max()) + 1) + channel[read]).unique().tolist() if read.any() else []
    width = int(channel.max()) + 1
    return [divmod(code, width) for code in codes]


def _does(module: nn.Module, name: str) -> str:
    if reason := obstacle(module, name):
        return reason
    verb = "normalises over" if "norm" in type(module).__name__.lower() else "mixes"
    return f"{type(module).__name__} {name!r} {verb} them"
