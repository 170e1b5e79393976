"""The multiplications by gains in front of the layers that read structures."""

from __future__ import annotations

__all__ = ["Gates", "refuse_no_gains"]

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from bmrs_pyro.network.gate import Gate, NormGate, along, gate_of
from bmrs_pyro.network.structures import Member, StructureFamily
from bmrs_pyro.network.untouched import forget_


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
            for member in (*family.queries, *family.norms, *family.consumers):
                parts[member.module, member.tensors].append((family, member))
        modules = dict(net.named_modules())
        super().__init__(gate_of(_consumer(modules, own[0][1]), own) for own in parts.values())
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
            if isinstance(gate, NormGate) and gain is not None and not (gain == 1).all():
                raise ValueError(
                    f"layer {gate.consumer!r} normalises over structures with gains other than 1, which no plain layer "
                    "can hold; give gains to other families only, and a mask to these"
                )
            if gain is not None:
                for name, dim in gate.weights:
                    weight = cast(Tensor, getattr(net.get_submodule(gate.consumer), name))
                    # not in place: the values may be shared with another network
                    weight.data = weight.data * along(gain.to(weight), weight, dim)
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


def _consumer(modules: Mapping[str, nn.Module], member: Member) -> nn.Module:
    consumer = modules.get(member.module)
    if member.tensors:
        name, dim = member.tensors[0]
        weight = getattr(consumer, name.rpartition(".")[2], None)
        shape = None if weight is None else weight.shape[dim : dim + 1]
    else:  # a layer norm without weights
        shape = getattr(consumer, "normalized_shape", None)
    if consumer is None or shape != (member.size,):
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
