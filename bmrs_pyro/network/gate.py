"""The multiplication by gains in front of one layer that reads structures."""

from __future__ import annotations

__all__ = ["Gate", "NormGate", "along", "gate_of"]

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bmrs_pyro.network.layer_norms import channels_first, weighed_norm
from bmrs_pyro.network.recomputed import Recomputed
from bmrs_pyro.network.structures import Member, StructureFamily

_TINY = 1e-300  # with gains that are all 0 nothing passes
_RECOMPUTED_BYTES = 2**18  # a smaller tensor is cheaper to keep than to recompute through hooks


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

    def held_by_trained(self, net: nn.Module) -> bool:
        """Whether weights can hold the gains, and the network's training changes them."""
        layer = net.get_submodule(self.consumer)
        held = [cast(Tensor, getattr(layer, name)).requires_grad for name, _ in self.weights]
        return bool(held) and all(held)

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
        given, (x, gain) = x.dim(), self._aligned(x, gain)
        y = x * gain
        tracked = gain.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if tracked and y.nbytes >= _RECOMPUTED_BYTES:
            # x is kept for the gain's gradient anyway; a compiler decides by itself what to keep
            self.saving = Recomputed(y, x, gain)
            self.saving.__enter__()
        return (y if y.dim() == given else y.flatten(0, 1), *rest)

    def _aligned(self, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Return an input, and gains that go along its channels and examples.

        Where several examples share each row of gains, dimension 0 of the input is split, as a view.

        Raises:
            ValueError: there are gains per example, and the input does not begin with the batch.
        """
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
        return x, gain.to(x.dtype)

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

    def close(self, *_: object) -> Tensor | None:
        """Leave the context that :meth:`scale` entered (the consumer's forward hook, called after errors too)."""
        if self.saving is not None:
            self.saving.__exit__()
            self.saving = None
        return None


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
            id(own[name]): own[name] * along(gain.to(own[name]), own[name], dim) for name, dim in self.weights
        }
        self.replaced = layer, {id(scaled[id(own[name])]): own[name] for name, _ in self.weights}
        _exchange_(layer, scaled)

    def close(self, *_: object) -> None:
        """Give the layer its weights back."""
        if self.replaced is not None:
            _exchange_(*self.replaced)
            self.replaced = None


class OutputGate(Gate):
    """Puts another output in the place of a layer's, instead of multiplying its input."""

    def scale(self, *_: object) -> None:
        """Leave the input as it is."""
        if self.gain is None:
            self._refuse_recomputation()

    def close(self, *call: Any) -> Tensor | None:
        """Return the output with gains (the layer's forward hook, which is called without an output after errors)."""
        if self.gain is None or not call or call[-1] is None:
            return None
        layer, (x, *_), plain = call
        y = self.output(layer, x, plain, self.gain)
        return y if y.dim() == plain.dim() else y.flatten(0, 1)

    def output(self, layer: nn.Module, x: Tensor, plain: Tensor, gain: Tensor) -> Tensor:
        """Return the output with gains, given the layer's input and its own output."""
        raise NotImplementedError


class NormGate(OutputGate):
    """Weighs the statistics of a layer norm by the gains of the structures that it normalises over."""

    def __init__(self, consumer: nn.Module, parts: Sequence[tuple[StructureFamily, Member]]) -> None:
        super().__init__(consumer, parts)
        self.weights = ()  # no weight of the norm can hold a gain
        self.trailing = (1, 1) if channels_first(consumer) else ()

    def output(self, layer: nn.Module, x: Tensor, plain: Tensor, gain: Tensor) -> Tensor:
        """Return the input normalised with weighed statistics."""
        x, gain = self._aligned(x, gain)
        return weighed_norm(layer, x, gain, plain.reshape(x.shape), dim=-1 - len(self.trailing))


class FactorGate(OutputGate):
    """Multiplies the outputs of a layer of queries, whose products with keys are summed over the channels of heads."""

    def output(self, layer: nn.Module, x: Tensor, plain: Tensor, gain: Tensor) -> Tensor:
        """Return the layer's own output times the gains."""
        y, gain = self._aligned(plain, gain)
        return y * gain


class QueryGate(FactorGate):
    """Multiplies queries by gains, and weighs the number of channels D by which attention divides.

    q kᵀ/√D becomes Σ_d θ_d q_d k_d/√(Σ_d θ_d), so that a gain of 0 has the effect of a removal.
    """

    def gains(self, theta: Mapping[str, Tensor]) -> Tensor | None:
        """Return θ_d/√(Σ_d θ_d / D) for every output channel of the layer; None where all gains are 1."""
        own = {name: theta[name].double() for name, _ in self.families if name in theta}
        return super().gains(
            {name: gain * gain.mean(-1, keepdim=True).clamp_min(_TINY).rsqrt() for name, gain in own.items()}
        )


def _exchange_(layer: nn.Module, others: Mapping[int, Tensor]) -> None:
    """Let a layer compute with others in the place of some of its weights."""
    if isinstance(layer, nn.RNNBase):
        layer._flat_weights = [others.get(id(weight), weight) for weight in layer._flat_weights]
    else:
        parameters = cast(dict[str, Any], layer._parameters)
        parameters |= {name: others.get(id(weight), weight) for name, weight in parameters.items()}


def along(gain: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Shape gains to go along a dimension of a weight."""
    shape = [1] * weight.dim()
    shape[dim] = -1
    return gain.reshape(shape)


_KINDS: dict[str, type[Gate]] = {
    "recur": WeightGate,
    "normalise": NormGate,
    "query": QueryGate,
    "factor": FactorGate,
}


def gate_of(consumer: nn.Module, parts: Sequence[tuple[StructureFamily, Member]]) -> Gate:
    """Return the gate of a layer's side that belongs to one or several families."""
    return _KINDS.get(parts[0][1].role, Gate)(consumer, parts)
