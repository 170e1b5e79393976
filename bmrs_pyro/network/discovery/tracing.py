"""Follow every channel through a network, from the layer that produces it to the layers that read it.

Every output channel of every layer gets a label. When a layer reads a tensor, gradients show which channels have gone
into which of its inputs. Labels that meet in an input are united: their channels can only be removed together.
"""

from __future__ import annotations

__all__ = ["trace"]

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from bmrs_pyro.network.discovery.attention import (
    SOFTMAX,
    AttentionCall,
    arguments_of_attention,
    heads_of,
    is_attention,
    lively_attention,
    nowhere_flat,
)
from bmrs_pyro.network.discovery.constants import constants
from bmrs_pyro.network.discovery.following import follow_channels, follow_heads
from bmrs_pyro.network.discovery.labelling import Labelling, Trace
from bmrs_pyro.network.discovery.local_gradients import Source
from bmrs_pyro.network.discovery.splits import SPLITS, SplitCall, split_sizes
from bmrs_pyro.network.experts import expert_sides
from bmrs_pyro.network.inputs import Call, batch_size, in_single_
from bmrs_pyro.network.layers import channel_dim, group_side, input_side, obstacle, output_side
from bmrs_pyro.network.nested import is_empty, leaves, map_leaves
from bmrs_pyro.network.recurrent import hidden_outputs, hidden_sides, initial_states
from bmrs_pyro.network.untouched import tensor_outputs

# activations whose gradient is 0 in places; the trace replaces them by a function that is nowhere flat
_FLAT = {
    *(functional.relu, functional.relu6, functional.hardtanh, functional.hardswish, functional.hardsigmoid),
    *(functional.threshold, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, Tensor.clamp, torch.clamp),
}

_ELEMENTWISE = {"add", "sub", "mul", "div", "radd", "rsub", "rmul", "iadd", "isub", "imul"}
"""Names of functions, without underscores, whose tensors must agree in their channels."""

_PRODUCTS = {
    *("matmul", "rmatmul", "mm", "bmm", "einsum", "tensordot", "linear", "addmm", "baddbmm"),
    *("conv1d", "conv2d", "conv3d"),
}
"""Names of matrix products and convolutions, without underscores."""


def trace(net: nn.Module, call: Call, *, buffers: bool, norms: bool, by_channel: bool) -> Trace:
    """Follow every channel through a network, each module in the mode it is in.

    Args:
        net: a copy of the network; its parameters must require gradients. Hooks stay, half precision becomes float32.
        call: how it is called.
        buffers: treat the buffers of the network's own modules as parameters, such as fixed scales or positions. The
            network's code may refuse tensors that require a gradient.
        norms: follow channels through layer norms, as through norms of single channels.
        by_channel: follow channels of attention heads, the same in all heads, instead of whole heads.
    """
    call = in_single_(net, call)
    tracer = _Tracer(net, batch_size((call.args, call.kwargs)) or 1, norms, by_channel)
    for source in constants(net) if buffers else ():
        tracer.labelling.known[id(source.tensor)] = source
    with tracer:
        outputs = tensor_outputs(net, call)
    for output in outputs:
        tracer.end(output)
    tracer.labelling.read_unread(tracer.sums)
    tracer.labelling.found.called.update(tracer.written)
    for owner, side, labels in tracer.labelling.bare:
        if owner not in tracer.written:  # a layer that is called reads its weights itself
            tracer.labelling.occur(owner, side, labels)
    return tracer.labelling.found


class _Tracer(TorchFunctionMode):
    """Labels the input of every layer, and starts a new graph at the output of every layer."""

    def __init__(self, net: nn.Module, batch: int, norms: bool, by_channel: bool) -> None:
        super().__init__()
        self.labelling, self.batch = Labelling(net), batch
        self.norms, self.by_channel = norms, by_channel
        self.stack: list[str] = []
        self.sums: list[Tensor] = []
        self.written: dict[str, tuple[int, ...]] = {}
        self.mixing: set[str] = set()  # norms that are followed as other code that mixes channels
        self.random = torch.Generator().manual_seed(0)
        for name, module in net.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True)
            module.register_forward_hook(partial(self._leave, name), with_kwargs=True)
            for own, parameter in module.named_parameters(name, recurse=False):
                self.labelling.known[id(parameter)] = Source(parameter, own)

    def end(self, output: Tensor) -> None:
        """Record the channels that have gone into an output of the network."""
        sources = [one for one in self.labelling.sources_of(output)[0] if one.dim is not None]
        for source in sources:
            self.labelling.obstruct(source, "they are outputs of the network")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _FLAT and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            in_place = func.__name__.endswith("_") or bool((kwargs or {}).get("inplace"))
            smooth = nowhere_flat(args[0])
            return args[0].copy_(smooth) if in_place else smooth
        if func is Tensor.numpy:
            args = (args[0].detach(),)
        if func is functional.scaled_dot_product_attention:
            out = lively_attention(*args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        if func.__name__.strip("_") in _PRODUCTS:
            factors = [one for one in leaves(args) if isinstance(one, Tensor)]
            found = [self.labelling.known.get(id(one if one._base is None else one._base)) for one in factors]
            self.labelling.found.multiplied.update(source.name for source in found if source is not None)
        if func in SOFTMAX and out.requires_grad:
            return out + nowhere_flat(args[0])  # the softmax of a single number is always 1
        if func in SPLITS and args and args[0].requires_grad:
            with torch._C.DisableTorchFunction():
                self._split(args[0], *split_sizes(out, args, kwargs or {}))
        if isinstance(out, Tensor) and out.requires_grad:
            if func.__name__.strip("_") in _ELEMENTWISE:
                self.sums.append(out)
            with torch._C.DisableTorchFunction():
                if self.by_channel and (given := arguments_of_attention(func, args, kwargs or {})):
                    return follow_channels(self.labelling, self.stack, out, given, self._begin)
                if is_attention(func, args) and (heads := heads_of(args, out, self.batch)):
                    return follow_heads(self.labelling, self.stack, out, *heads, self._begin)
        return out

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.stack.append(name)
        given = (one.data if isinstance(one, PackedSequence) else one for one in (*args, *kwargs.values()))
        x = next((one for one in given if isinstance(one, Tensor)), None)
        if x is None or is_empty(x):
            return
        with torch._C.DisableTorchFunction():
            written, read = output_side(module), input_side(module)
            if isinstance(module, nn.Embedding):
                self.written[name] = ()
            elif read is not None:
                labels = self.labelling.read(x, channel_dim(module, x), name)
                self.labelling.occur(name, read, labels)
                if isinstance(module, nn.RNNBase):
                    self._read_states(name, module, initial_states(args, kwargs))
                if isinstance(module, _ConvNd) and module.groups > 1:
                    self.written[name] = self._through_groups(name, module, labels)
            elif written is not None and written.role == "normalise" and not self._follows(module, x):
                self.mixing.add(name)
            elif written is not None and written.role in ("carry", "normalise"):
                self.written[name] = labels = self.labelling.read(x, channel_dim(module, x), name)
                if isinstance(module, nn.GroupNorm):
                    self.written[name] = self._through_groups(name, module, labels)

    def _follows(self, norm: nn.Module, x: Tensor) -> bool:
        """Whether channels are followed through a layer norm; not if it normalises, say, every head by itself."""
        return self.norms and self.labelling.separate(x, channel_dim(norm, x))

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        self.stack.pop()
        if is_empty(output):  # the layer is not reached
            return map_leaves(lambda x: x.detach() if isinstance(x, Tensor) else x, output)
        side = output_side(module)
        if side is None or name in self.mixing:
            own = any(True for _ in module.parameters(recurse=False))
            if own or "norm" in type(module).__name__.lower():
                nodes = [x.grad_fn for x in leaves(output) if isinstance(x, Tensor) and x.grad_fn is not None]
                self.labelling.named.update(dict.fromkeys(nodes, _effect(module, name)))
                self._number_experts(name, module)
            return None
        if isinstance(module, nn.RNNBase):
            with torch._C.DisableTorchFunction():
                return self._recur(name, module, output)
        if not isinstance(output, Tensor) or not output.requires_grad:
            return None
        with torch._C.DisableTorchFunction():
            if side.role == "produce":
                if name not in self.written or not self.written[name]:
                    self.written[name] = tuple(self.labelling.found.partition.new() for _ in range(side.size))
                labels = self.written[name]
            else:
                labels = self.written[name]
            self.labelling.occur(name, side, labels)
            return self._begin(output, name, channel_dim(module, output), labels)

    def _read_states(self, name: str, layer: nn.RNNBase, states: Sequence[Tensor]) -> None:
        """Give every hidden unit a label, that of the channel of an initial state where that has one."""
        partition = self.labelling.found.partition
        units = self.written.setdefault(name, tuple(partition.new() for _ in range(layer.hidden_size)))
        for state in states:
            for unit, label in zip(units, self.labelling.read(state, state.dim() - 1, name), strict=False):
                if label >= 0:
                    partition.join([unit, label])

    def _recur(self, name: str, layer: nn.RNNBase, output: Any) -> Any:
        """Follow the hidden units of a recurrent layer, whose size the modules around it may count."""
        units = self.written[name]
        for side, times in hidden_sides(layer):
            self.labelling.occur(name, side, units * times)
        self.labelling.found.attention.append(AttentionCall((*self.stack, name), units, 1))

        def begin(h: Tensor) -> Tensor:
            times, other = divmod(h.shape[-1], len(units))
            return self._begin(h, name, -1, (-1,) * h.shape[-1] if other else units * times)

        return hidden_outputs(output, begin)

    def _number_experts(self, name: str, layer: nn.Module) -> None:
        """Give every inner neuron of fused experts a label."""
        for side, neurons in expert_sides(layer):
            if name not in self.written:
                self.written[name] = tuple(
                    self.labelling.found.partition.new() for _ in range(max(neurons) + 1)
                )
            self.labelling.occur(name, side, [self.written[name][neuron] for neuron in neurons])

    def _begin(self, output: Tensor, name: str, dim: int, labels: Sequence[int]) -> Tensor:
        """Start a new graph at a layer's output, with values at which no activation is flat."""
        values = torch.empty(output.shape).uniform_(0.2, 0.9, generator=self.random).to(output.detach())
        leaf = torch.empty_like(output, requires_grad=False).copy_(values).requires_grad_()
        self.labelling.known[id(leaf)] = Source(leaf, name, dim % output.dim(), tuple(labels))
        return leaf.clone()

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
            self.labelling.found.partition.join(own)
            firsts.append(own[0] if own else -1)
        self.labelling.occur(name, group_side(layer), firsts)
        return tuple(firsts[channel * groups // out] for channel in range(out))

    def _split(self, x: Tensor, dim: int, sizes: Sequence[int]) -> None:
        """Note the channels of each part of a split."""
        labels = iter(self.labelling.channels(x, dim))
        parts = tuple(tuple(islice(labels, size)) for size in sizes)
        if any(label >= 0 for part in parts for label in part):
            self.labelling.found.splits.append(SplitCall(tuple(self.stack), parts))


def _effect(module: nn.Module, name: str) -> str:
    if reason := obstacle(module, name):
        return reason
    verb = "normalises over" if "norm" in type(module).__name__.lower() else "mixes"
    return f"{type(module).__name__} {name!r} {verb} them"
