"""Multiply-accumulates of a call: of the whole network, of each weight, and of the products of attention."""

from __future__ import annotations

__all__ = ["MacCount", "enclosing", "multiplied"]

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bmrs_pyro.network.experts import expert_sides
from bmrs_pyro.network.inputs import Call, batch_size
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
        call = Call.of(net, inputs).map(Tensor.detach)
        like = next((weight for weight in net.parameters() if weight.is_floating_point()), None)
        if like is not None:  # the network may have moved since it was given its inputs
            call = call.map(lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype))
        counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
        fused = torch.backends.mha.get_fastpath_enabled()
        with modes_kept(net), random_state_kept(net), _without_gradients(net), counter:
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
            weights = multiplied(module)
            entries = sum(weight.numel() for weight in weights.values())
            if name and name in self.by_module and entries:
                each = sum(self.by_module[name].values()) / entries
                found |= {f"{name}.{weight}": each for weight in weights}
        return found

    @cached_property
    def products(self) -> dict[str, float]:
        """The products of two tensors in a call of each module, by name, without those of layers with weights."""
        found = {name: sum(ops.get(op, 0.0) for op in _PRODUCTS) for name, ops in self.by_module.items()}
        layers = [name for name, module in self.net.named_modules() if found.get(name) and multiplied(module)]
        for name in reversed(layers):  # the inner ones first
            own = found[name]
            for module in (name, *enclosing(name)):
                if module in found:
                    found[module] -= own
        return found


def enclosing(name: str) -> Iterator[str]:
    """Yield the names of the modules that hold a module, innermost first; the network itself is ``""``."""
    while name:
        name = name.rpartition(".")[0]
        yield name


@contextmanager
def _without_gradients(net: nn.Module) -> Iterator[None]:
    """Disable gradients; torch's counter refuses views of parameters that require them."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.no_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def multiplied(layer: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a layer that multiply what it reads, by name."""
    tensors = dict(layer.named_parameters(recurse=False))
    if isinstance(layer, nn.RNNBase):
        return {name: weight for name, weight in tensors.items() if weight.dim() > 1}
    if any(True for _ in expert_sides(layer)):
        return {name: weight for name, weight in tensors.items() if weight.dim() > 2}
    weight = getattr(layer, "weight", None)
    return {"weight": weight} if isinstance(weight, Tensor) else {}
