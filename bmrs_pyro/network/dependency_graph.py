"""torch-pruning's dependency graph, built without its side effects; the one place that knows its interior."""

from __future__ import annotations

__all__ = ["Channel", "DependencyGraph", "Port", "dependency_graph"]

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch_pruning as tp
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch_pruning._helpers import _HybridIndex as Channel
from torch_pruning.dependency.index_mapping import update_index_mapping

from bmrs_pyro.network.feature_selection import FeatureSelection
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.untouched import tensor_outputs


class Port(NamedTuple):
    """One side, input or output, of an operation; for many operations the two are one."""

    node: Any
    function: Callable[..., Any]
    """torch-pruning's function that would prune this side."""


@dataclass(frozen=True)
class DependencyGraph:
    """Which channels of an operation are which channels of the next.

    Attributes:
        nodes: the operations, layers among them.
        ends: the autograd nodes that made the network's outputs.
        opaque: operations through which torch-pruning cannot map channels.
    """

    nodes: list[Any]
    ends: set[Any]
    opaque: set[Any]
    pruner_of: Callable[[Any], Any]

    def output(self, node: Any) -> Port:
        """Return the output side of an operation."""
        return Port(node, self.pruner_of(node.module).prune_out_channels)

    def input(self, node: Any) -> Port:
        """Return the input side of an operation."""
        return Port(node, self.pruner_of(node.module).prune_in_channels)

    def follow(self, port: Port, channels: list[Channel]) -> Iterator[tuple[Port, list[Channel]]]:
        """Map channels of one side to the sides of other operations that share them."""
        for dependency in port.node.dependencies:
            if dependency.is_triggered_by(port.function):
                mapped = channels
                for mapping in filter(None, dependency.index_mapping):
                    mapped = mapping(mapped)
                yield Port(dependency.target, dependency.handler), mapped


def dependency_graph(net: nn.Module, call: Call) -> DependencyGraph:
    """Trace a network, each module in the mode it is in.

    Args:
        net: the network; its parameters must require gradients.
        call: how it is called.

    Raises:
        ValueError: torch-pruning cannot trace the network.
    """
    graph = tp.DependencyGraph()
    outputs: list[Tensor] = []
    modes = {module: module.training for module in net.modules()}

    def forward(model: nn.Module, _: Any) -> list[Tensor]:
        for module, training in modes.items():  # torch-pruning has called .eval()
            module.training = training
        outputs.extend(output for output in tensor_outputs(model, call) if output.requires_grad)
        return outputs

    opaque: set[Any] = set()
    # no gradient will be asked for, so nothing need be saved for it
    with warnings.catch_warnings(), saved_tensors_hooks(lambda tensor: None, lambda tensor: tensor):
        warnings.simplefilter("ignore")
        try:
            graph.build_dependency(
                net,
                call.args,
                forward_fn=forward,
                verbose=False,
                customized_pruners={FeatureSelection: _FeatureSelectionPruner()},
            )
        except Exception as error:
            if not getattr(graph, "module2node", None):
                raise ValueError(f"torch-pruning cannot trace the network: {error}") from error
            opaque = _opaque_nodes(graph)
    ends = {output.grad_fn for output in outputs}
    return DependencyGraph(list(graph.module2node.values()), ends, opaque, graph.get_pruner_of_module)


class _FeatureSelectionPruner(tp.function.BasePruningFunc):
    """Tells torch-pruning that what the layer puts out is not what it takes in."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Never called: its name stands for the output side."""
        raise NotImplementedError

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Never called: its name stands for the input side."""
        raise NotImplementedError

    def get_out_channels(self, layer: FeatureSelection) -> int:
        """Return how many features leave the layer."""
        return layer.out_features

    def get_in_channels(self, layer: FeatureSelection) -> int:
        """Return how many features come into the layer."""
        return layer.in_features


def _opaque_nodes(graph: Any) -> set[Any]:
    """Map channels through one operation at a time; return those that fail."""
    nodes, opaque = graph.module2node, set()
    for module, node in nodes.items():
        graph.module2node = {module: node}
        try:
            update_index_mapping(graph)
        except Exception:
            opaque.add(node)
    graph.module2node = nodes
    return opaque
