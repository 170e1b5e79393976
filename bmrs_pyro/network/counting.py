"""Multiply-accumulates of a call: of the whole network, of each weight, and of the products of attention."""

from __future__ import annotations

__all__ = ["MacCount"]

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bmrs_pyro.network.experts import expert_sides
from bmrs_pyro.network.inputs import Call, batch_size
from bmrs_pyro.network.structures import StructureFamily
from bmrs_pyro.network.untouched import modes_kept, random_state_kept

_aten = torch.ops.aten


def _step_by_step(x: torch.Size, *weights: torch.Size) -> int:
    """Return the operations of a recurrent layer: its matrices times every step of every example."""
    return 2 * math.prod(x[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) > 1)


def _attention(q: torch.Size, k: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
    """Return the operations of softmax(q kᵀ) v; several heads of q may share one of k and v."""
    return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


# torch's counter lacks attention on processors, and refuses heads of q that share one of k and v
_ATTENTION = {
    getattr(_aten, f"_scaled_dot_product_{kind}"): _attention
    for kind in (
        "flash_attention_for_cpu",
        "flash_attention",
        "efficient_attention",
        "cudnn_attention",
        "fused_attention_overrideable",
    )
    if hasattr(_aten, f"_scaled_dot_product_{kind}")
}

# recurrent layers as a whole, where torch has them as one operation; fused experts, of which each row has one; and
# operations that torch's counter lacks
_FORMULAS = {
    _aten.mkldnn_rnn_layer: lambda x, w_x, w_h, *_, **__: _step_by_step(x, w_x, w_h),
    _aten._cudnn_rnn: lambda x, weights, *_, **__: _step_by_step(x, *weights),
    _aten._grouped_mm: lambda x, weights, *_, **__: 2 * math.prod(x) * weights[-1],
    _aten._trilinear: lambda x, weight, *_, **__: 2 * x[0] * math.prod(weight),
    **_ATTENTION,
}

# products of two tensors of every example, as attention computes them where it is not fused
_PRODUCTS = {_aten.bmm, _aten.baddbmm, *_ATTENTION}


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates for one example.

    Attributes:
        net: the network.
        by_module: those in a call of each module, by name and operation; ``""`` is the whole network.
    """

    net: nn.Module
    by_module: Mapping[str, Mapping[Any, float]]

    @classmethod
    def of(cls, net: nn.Module, inputs: tuple[Any, ...]) -> MacCount:
        """Run a network on its inputs, on any device and in any precision, and count.

        Raises:
            ValueError: there are no inputs, they hold no example, or the network does not run on them.
        """
        if not inputs:
            raise ValueError(
                "no example inputs to count multiply-accumulates with; give the network's inputs"
            )
        examples = batch_size(inputs)
        if examples == 0:
            raise ValueError(
                "the example inputs hold no example: dimension 0 of the first one, the batch, is 0"
            )
        call = Call.of(net, inputs)
        like = next((weight for weight in net.parameters() if weight.is_floating_point()), None)
        if like is not None:  # the network may have moved since it was given its inputs
            call = call.map(lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype))
        counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
        fused = torch.backends.mha.get_fastpath_enabled()
        with modes_kept(net), random_state_kept(net), torch.no_grad(), counter:
            try:
                torch.backends.mha.set_fastpath_enabled(False)  # the counter cannot see into fused layers
                call.fresh(net.eval())
            except (TypeError, RuntimeError) as error:
                raise ValueError(
                    f"the network does not run on the example inputs ({call}): {type(error).__name__}: {error}"
                ) from error
            finally:
                torch.backends.mha.set_fastpath_enabled(fused)
        root = f"{type(net).__name__}."
        found = counter.get_flop_counts()
        each = {name.removeprefix(root): ops for name, ops in found.items() if name.startswith(root)}
        halves = 2 * (examples or 1)
        return cls(
            net,
            {
                name: {op: count / halves for op, count in ops.items()}
                for name, ops in {**each, "": found.get("Global", {})}.items()
            },
        )

    @property
    def total(self) -> int:
        """All multiply-accumulates."""
        return round(sum(self.by_module[""].values()))

    def per_weight(self) -> dict[str, float]:
        """Return the number in which each entry of a layer's weight takes part, by the weight's name."""
        found: dict[str, float] = {}
        for name, module in self.net.named_modules():
            weights = _multiplied(module)
            entries = sum(weight.numel() for weight in weights.values())
            if name and name in self.by_module and entries:
                each = sum(self.by_module[name].values()) / entries
                found |= {f"{name}.{weight}": each for weight in weights}
        return found

    def of_heads(self, families: Iterable[StructureFamily]) -> dict[str, float]:
        """Return the products q kᵀ and a v of each family of heads; they are in proportion to the number of heads.

        The products in the smallest module that holds a family's layers are the family's. Families with the same such
        module share them equally.
        """
        homes: dict[str, list[str]] = defaultdict(list)
        for family in families:
            if family.kind == "heads":
                homes[self._home(family)].append(family.name)
        found: dict[str, float] = {}
        for home, names in homes.items():
            inner = [other for other in homes if other != home and _lies_in(other, home)]
            outermost = [one for one in inner if not any(one != o and _lies_in(one, o) for o in inner)]
            own = self._products(home) - sum(map(self._products, outermost))
            found |= dict.fromkeys(names, own / len(names))
        return found

    def _home(self, family: StructureFamily) -> str:
        """Return the name of the smallest module that is called and holds all layers of a family."""
        paths = [member.module.split(".")[:-1] for member in family.members]
        shared = 0
        while all(len(path) > shared and path[shared] == paths[0][shared] for path in paths):
            shared += 1
        while shared and ".".join(paths[0][:shared]) not in self.by_module:
            shared -= 1
        return ".".join(paths[0][:shared])

    def _products(self, home: str) -> float:
        """Return the products of two tensors in a module, without those of layers with weights."""
        layers = [
            name
            for name, module in self.net.named_modules()
            if name in self.by_module and name != home and _lies_in(name, home) and _multiplied(module)
        ]
        return sum(
            sign * self.by_module[name].get(op, 0.0)
            for sign, name in ((1, home), *((-1, layer) for layer in layers))
            for op in _PRODUCTS
        )


def _lies_in(name: str, module: str) -> bool:
    return not module or name == module or name.startswith(f"{module}.")


def _multiplied(layer: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a layer that multiply what it reads, by name."""
    tensors = dict(layer.named_parameters(recurse=False))
    if isinstance(layer, nn.RNNBase):
        return {name: weight for name, weight in tensors.items() if weight.dim() > 1}
    if any(True for _ in expert_sides(layer)):
        return {name: weight for name, weight in tensors.items() if weight.dim() > 2}
    weight = getattr(layer, "weight", None)
    return {"weight": weight} if isinstance(weight, Tensor) else {}
