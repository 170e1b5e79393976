"""Follow every channel through a network, from the layer that writes it to the layers that read it.

Every output channel of every layer gets a label, and the labels spread along the dependency graph. Labels
that meet are united: to remove one of their channels is to remove them all.
"""

from __future__ import annotations

__all__ = ["Occurrence", "Trace", "trace"]

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.conv import _ConvNd

from bmrs_pyro.network.dependency_graph import Channel, DependencyGraph, Port, dependency_graph
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.layers import Side, group_side, input_side, obstacle, output_side, parameter_side
from bmrs_pyro.network.partition import Partition

Labels = dict[int, int]  # channel -> label


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
    """

    partition: Partition = field(default_factory=Partition)
    occurrences: list[Occurrence] = field(default_factory=list)
    obstacles: list[tuple[Iterable[int], str]] = field(default_factory=list)


def trace(net: nn.Module, call: Call) -> Trace:
    """Follow every channel through a network, each module in the mode it is in.

    Args:
        net: the network; its parameters must require gradients.
        call: how it is called.

    Raises:
        ValueError: torch-pruning cannot trace the network.
    """
    graph = dependency_graph(net, call)
    found = Trace()
    sides = [side for layer in net.modules() for side in (input_side(layer), output_side(layer)) if side]
    widest = max((side.size for side in sides), default=0)
    names = {value: name for name, value in (*net.named_modules(), *net.named_parameters())}
    for port, labels in _Spread(graph, found, widest).everywhere().items():
        if port.node.grad_fn in graph.ends and port == graph.output(port.node):
            found.obstacles.append((labels.values(), "they are outputs of the network"))
        name = names.get(port.node.module)
        if name is None:
            continue  # an operation between layers
        layer = name if isinstance(port.node.module, nn.Module) else name.rpartition(".")[0]
        if reason := obstacle(net.get_submodule(layer), layer):
            found.obstacles.append((labels.values(), reason))
        for side, own in _sides(graph, port, labels, name):
            found.occurrences.append(Occurrence(layer, side, own))
            if max(own) >= side.size:
                reason = f"torch-pruning maps them past the {side.size} channels of {name!r}"
                found.obstacles.append((labels.values(), reason))
    return found


def _sides(graph: DependencyGraph, port: Port, labels: Labels, name: str) -> Iterator[tuple[Side, Labels]]:
    layer = port.node.module
    if isinstance(layer, nn.Parameter):
        yield parameter_side(name.rpartition(".")[2], layer, port.node.pruning_dim), labels
        return
    if port == graph.output(port.node) and (side := output_side(layer)):
        yield side, labels
        if isinstance(layer, _ConvNd) and layer.groups > 1:
            width = layer.out_channels // layer.groups
            yield group_side(layer), {channel // width: label for channel, label in labels.items()}
    if port == graph.input(port.node) and (side := input_side(layer)):
        yield side, labels


class _Spread:
    """Labels on their way along a dependency graph.

    Args:
        graph: the graph.
        found: takes the labels that meet, and those that cannot be followed.
        widest: the largest number of channels any layer has.
    """

    def __init__(self, graph: DependencyGraph, found: Trace, widest: int) -> None:
        self.graph, self.found, self.widest = graph, found, widest
        self.reached: dict[Port, Labels] = defaultdict(dict)
        self.waiting: list[tuple[Port, list[Channel]]] = []

    def everywhere(self) -> dict[Port, Labels]:
        """Label every output channel of every producer; return where the labels have come."""
        new = self.found.partition.new
        for node in self.graph.nodes:
            side = output_side(node.module)
            if side and side.role == "produce":
                port = self.graph.output(node)
                unlabelled = [channel for channel in range(side.size) if channel not in self.reached[port]]
                self._arrive(port, [Channel(channel, new()) for channel in unlabelled])
                while self.waiting:
                    self._advance(*self.waiting.pop())
        return {port: labels for port, labels in self.reached.items() if labels}

    def _arrive(self, port: Port, channels: list[Channel]) -> None:
        labels, fresh = self.reached[port], []
        for channel in channels:
            if channel.idx in labels:
                self.found.partition.join((labels[channel.idx], channel.root_idx))
            else:
                labels[channel.idx] = channel.root_idx
                fresh.append(channel)
        if fresh:
            self.waiting.append((port, fresh))

    def _advance(self, port: Port, channels: list[Channel]) -> None:
        try:
            targets = list(self.graph.follow(port, channels))
            # wrong maps lose labels, or lead round a cycle and multiply channels each time
            followed = port.node not in self.graph.opaque and all(
                channel.root_idx is not None and 0 <= channel.idx < self.widest
                for _, mapped in targets
                for channel in mapped
            )
        except (IndexError, TypeError):
            followed = False
        if not followed:
            labels = [channel.root_idx for channel in channels]
            self.found.obstacles.append((labels, f"torch-pruning cannot follow them {_place(port)}"))
            return
        for target, mapped in targets:
            self._arrive(target, mapped)
        if isinstance(port.node.module, _ConvNd) and port.node.module.groups > 1:
            self._arrive(*_across_groups(self.graph, port, channels))


def _across_groups(graph: DependencyGraph, port: Port, channels: list[Channel]) -> tuple[Port, list[Channel]]:
    """Map channels of a grouped convolution to all channels of the same group on its other side."""
    conv = port.node.module
    here, there, other = conv.in_channels, conv.out_channels, graph.output(port.node)
    if port == other:
        here, there, other = there, here, graph.input(port.node)
    here, there = here // conv.groups, there // conv.groups
    return other, [
        Channel(channel.idx // here * there + offset, channel.root_idx)
        for channel in channels
        for offset in range(there)
    ]


def _place(port: Port) -> str:
    node = port.node
    while node.inputs and node._name is None:
        node = node.inputs[0]
    return f"after {node._name!r}"
