"""The multiplications by gains in front of the layers that read structures."""

from __future__ import annotations

__all__ = ["Gate", "Gates", "refuse_no_gains"]

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bmrs_pyro.network.recomputed import Recomputed
from bmrs_pyro.network.structures import Member, StructureFamily
from bmrs_pyro.network.untouched import forget_

_RECOMPUTED_BYTES = 2**18  # a smaller tensor is cheaper to keep than to recompute through hooks


def refuse_no_gains(theta: Any) -> None:
    """Raise TypeError if an argument is not a mapping of family names to tensors."""
    if not isinstance(theta, Mapping):
        raise TypeError(
            f"theta is a {type(theta).__name__}; give gains by family, as {{name: q.mean for name, q in "
            "posteriors.items()}; several inputs of the network are one tuple: network((a, b), theta)"
        )
    for name, gain in theta.items():
        if not isinstance(gain, Tensor):
            raise TypeError(
                f"the gains of {name!r} are a {type(gain).__name__}; give a tensor (C,), such as a posterior's mean"
            )


class Gate(nn.Module):
    """Multiplies the inputs of one consumer by the gains of the structures they belong to."""

    index: Tensor
    """For each input channel: its index in the joined gains of all families read, followed by a single 1."""

    def __init__(self, consumer: nn.Module, parts: Sequence[tuple[StructureFamily, Member]]) -> None:
        super().__init__()
        first = parts[0][1]
        self.consumer = first.module
        prefix = f"{first.module}." if first.module else ""
        self.weights = tuple((name.removeprefix(prefix), dim) for name, dim in first.tensors)
        self.families = tuple((family.name, family.size) for family, _ in parts)
        self.trailing = (1,) * len(getattr(consumer, "kernel_size", ()))  # dimensions behind the channels
        self.gain: Tensor | None = None
        self.examples: int | None = None  # of the batch, where several share each row of gains
        self.multiplied = False  # whether the last forward pass had gains
        self.saving: Recomputed | None = None
        total = sum(family.size for family, _ in parts)
        index, start = torch.full((first.size,), total), 0
        for family, member in parts:
            index[member.positions] = member.structures + start
            start += family.size
        self.register_buffer("index", index, persistent=False)
        # input channels per structure, where one family fills them all in order
        run = first.size // total
        in_order = len(parts) == 1 and torch.equal(index, torch.arange(total).repeat_interleave(run))
        self.run = run if in_order else None

    def gains(self, theta: Mapping[str, Tensor]) -> Tensor | None:
        """Return the gain of every input channel, ``(n,)`` or ``(draws, n)``; None where all are 1."""
        given = [theta.get(name) for name, _ in self.families]
        some = next((value for value in given if value is not None), None)
        if some is None:
            return None
        if self.run == 1:
            return some
        if self.run is not None:
            return some.unsqueeze(-1).expand(*some.shape, self.run).flatten(-2)
        parts = [
            some.new_ones(size) if value is None else value
            for value, (_, size) in zip(given, self.families, strict=True)
        ]
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        parts = [part.expand(*batch, -1) for part in (*parts, some.new_ones(1))]
        return torch.cat(parts, -1).index_select(-1, self.index)

    def scale(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Multiply the consumer's input (its forward pre-hook)."""
        gain = self.gain
        if gain is None:
            self._refuse_recomputation()
            return None
        x, *rest = args
        if isinstance(x, PackedSequence):
            if gain.dim() == 2:
                raise ValueError(
                    f"layer {self.consumer!r} reads a packed sequence; give gains (C,), not (batch, C)"
                )
            return (x._replace(data=x.data * gain.to(x.data.dtype)), *rest)
        if gain.dim() == 2:
            batch = self.examples or gain.shape[0]
            if batch != x.shape[0]:
                raise ValueError(
                    f"layer {self.consumer!r} reads {x.shape[0]} rows for a batch of {batch}: "
                    "its input does not begin with the batch; give gains of shape (C,), not (batch, C), as a "
                    "SupervisedModel with draws='batch' does"
                )
            middle = (1,) * (x.dim() - 2 - len(self.trailing))
            gain = gain.reshape(gain.shape[0], *middle, gain.shape[1], *self.trailing)
            if self.examples is not None:  # a view, so that nothing is repeated
                x = x.unflatten(0, (-1, gain.shape[0]))
        elif self.trailing:
            gain = gain.reshape(-1, *self.trailing)
        gain = gain.to(x.dtype)
        y = x * gain
        tracked = gain.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if tracked and y.nbytes >= _RECOMPUTED_BYTES:
            # x is kept for the gain's gradient anyway; a compiler decides by itself what to keep
            self.saving = Recomputed(y, x, gain)
            self.saving.__enter__()
        return (y if self.examples is None or y.dim() == args[0].dim() else y.flatten(0, 1), *rest)

    def _refuse_recomputation(self) -> None:
        if torch.compiler.is_compiling():
            return
        in_backward = torch._C._current_graph_task_id() != -1
        if in_backward and self.multiplied:
            raise RuntimeError(
                f"layer {self.consumer!r} is called again in the backward pass (activation checkpointing), when its "
                "gains are gone; turn checkpointing off to train with gains"
            )
        self.multiplied = in_backward and self.multiplied

    def close(self, *_: object) -> None:
        """Leave the context that :meth:`scale` entered (the consumer's forward hook, called after errors too)."""
        if self.saving is not None:
            self.saving.__exit__()
            self.saving = None


class WeightGate(Gate):
    """Multiplies the weights by which a recurrent layer, or a layer of experts, reads its own units during a call.

    W (θ ⊙ h) = (W diag θ) h, inside of the layer, where nothing but its weights can be reached.
    """

    replaced: tuple[nn.Module, dict[int, Tensor]] | None = None
    """During a call the layer, and its own weights by the identity of those in their place."""

    def scale(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """Put multiplied weights in the place of the layer's."""
        gain = self.gain
        if gain is None:
            self._refuse_recomputation()
            return
        if gain.dim() == 2:
            raise ValueError(
                f"the layer {self.consumer!r} reads its own units with one gain each for a whole batch; "
                "give gains of shape (C,), not (batch, C), as a SupervisedModel with draws='batch' does"
            )
        own = dict(layer.named_parameters(recurse=False))
        scaled = {
            id(own[name]): own[name] * _along(gain.to(own[name]), own[name], dim)
            for name, dim in self.weights
        }
        self.replaced = layer, {id(scaled[id(own[name])]): own[name] for name, _ in self.weights}
        _exchange_(layer, scaled)

    def close(self, *_: object) -> None:
        """Give the layer its weights back."""
        if self.replaced is not None:
            _exchange_(*self.replaced)
            self.replaced = None


def _exchange_(layer: nn.Module, others: Mapping[int, Tensor]) -> None:
    """Let a layer compute with others in the place of some of its weights."""
    if isinstance(layer, nn.RNNBase):
        layer._flat_weights = [others.get(id(weight), weight) for weight in layer._flat_weights]
    else:
        parameters = cast(dict[str, Any], layer._parameters)
        parameters |= {name: others.get(id(weight), weight) for name, weight in parameters.items()}


def _along(gain: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Shape gains to go along a dimension of a weight."""
    shape = [1] * weight.dim()
    shape[dim] = -1
    return gain.reshape(shape)


class Gates(nn.ModuleList):
    """The gates of a network, hooked to the layers that read its structures.

    Args:
        net: gets one forward pre-hook and one forward hook per consumer.
        structures: the families.

    Raises:
        ValueError: the network has gates already, or the structures are another network's.
    """

    def __init__(self, net: nn.Module, structures: Sequence[StructureFamily]) -> None:
        self.refuse_gated(net)
        parts: dict[tuple[str, Any], list[tuple[StructureFamily, Member]]] = defaultdict(list)
        for family in structures:
            for member in family.consumers:
                parts[member.module, member.tensors].append((family, member))
        modules = dict(net.named_modules())
        super().__init__(_gate(_consumer(modules, own[0][1]), own) for own in parts.values())
        for gate in self:
            # a bound method survives deepcopy together with its gate, a closure would keep the old one
            modules[gate.consumer].register_forward_pre_hook(gate.scale)
            modules[gate.consumer].register_forward_hook(gate.close, always_call=True)
        device = next((parameter.device for parameter in net.parameters()), None)
        self.to(device)

    def __iter__(self) -> Iterator[Gate]:
        return cast(Iterator[Gate], super().__iter__())

    @contextmanager
    def open(self, theta: Mapping[str, Tensor], batch: int | None = None) -> Iterator[None]:
        """Multiply the consumers' inputs by the gains within the context.

        Args:
            theta: gains ``(C,)`` or ``(draws, C)`` by family; example i has row i mod draws.
            batch: number of examples, where there are gains ``(draws, C)``.
        """
        try:
            for gate in self:
                gate.gain = gain = gate.gains(theta)
                gate.multiplied = gain is not None
                shared = gain is not None and gain.dim() == 2 and len(gain) != batch
                gate.examples = batch if shared else None
            yield
        finally:
            for gate in self:
                gate.gain = gate.examples = None
                gate.close()  # torch calls no hook after an interrupt

    @torch.no_grad()
    def fold_(self, net: nn.Module, theta: Mapping[str, Tensor]) -> None:
        """Multiply the gains, ``(C,)`` each, into the consumers' weights: W[:, c] ← θ_c W[:, c]."""
        for gate in self:
            gain = gate.gains({name: value.to(gate.index.device) for name, value in theta.items()})
            if gain is not None:
                for name, dim in gate.weights:
                    weight = cast(Tensor, getattr(net.get_submodule(gate.consumer), name))
                    # not in place: the values may be shared with another network
                    weight.data = weight.data * _along(gain.to(weight), weight, dim)
        forget_(net)

    @staticmethod
    def refuse_gated(net: nn.Module) -> None:
        """Raise ValueError if the network, or one inside it, has gates already."""
        if any(True for _ in _hooks(net)):
            raise ValueError("the network is inside a NoisyNetwork already: use that one, or a fresh network")

    @staticmethod
    def detach_(net: nn.Module) -> None:
        """Unhook all gates from a network."""
        for module, hooks, key in list(_hooks(net)):
            del hooks[key]
            module._forward_hooks_always_called.pop(key, None)


def _gate(consumer: nn.Module, parts: Sequence[tuple[StructureFamily, Member]]) -> Gate:
    return (WeightGate if parts[0][1].role == "recur" else Gate)(consumer, parts)


def _consumer(modules: Mapping[str, nn.Module], member: Member) -> nn.Module:
    name, dim = member.tensors[0]
    consumer = modules.get(member.module)
    weight = getattr(consumer, name.rpartition(".")[2], None)
    if consumer is None or weight is None or weight.shape[dim : dim + 1] != (member.size,):
        raise ValueError(
            f"the structures were found on another network: this one has no layer {member.module!r} "
            f"with {member.size} inputs"
        )
    return consumer


def _hooks(net: nn.Module) -> Iterator[tuple[nn.Module, dict[int, Any], int]]:
    for module in net.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in hooks.items():
                if isinstance(getattr(hook, "__self__", None), Gate):
                    yield module, hooks, key
