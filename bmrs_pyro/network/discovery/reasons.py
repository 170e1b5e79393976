"""Why the structures of a family cannot be removed, in words."""

from __future__ import annotations

__all__ = ["CHANGED", "failure", "naming_noise", "naming_tensors", "not_differentiable", "unmoved"]

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.structures import LeftOut, StructureFamily
from bmrs_pyro.network.untouched import shared_copy, tensor_outputs

CHANGED = "the outputs change when some of them are removed (they are mixed, or treated by their place)"

_FAILURE = "the network does not run without some of them"


def failure(error: Exception) -> str:
    """Return the reason if the smaller network does not run."""
    why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return f"{_FAILURE}, as if its own code counted them ({why})"


def not_differentiable(error: RuntimeError) -> ValueError:
    """Return the error of a network through which there are no gradients."""
    why = next(iter(str(error).splitlines()), "")
    if "inplace operation" in why:
        why = (
            "it changes a tensor in place that a gradient needs, such as a ReLU's output by add_; write that "
        )
        why += "operation without the underscore"
    return ValueError(f"the network cannot be differentiated: {why}")


def unmoved(layer: str) -> str:
    """Return the reason if the outputs do not respond to the weights of a layer."""
    return (
        f"the outputs do not respond to the weights of {layer} on random weights and inputs, so nothing shows that it "
        "can lose channels; give example inputs on which they do"
    )


def naming_noise(net: nn.Module, call: Call, left_out: Sequence[LeftOut]) -> list[LeftOut]:
    """Say of structures that cannot be removed that the network draws random numbers, if it does."""
    copy, outputs = shared_copy(net), []
    for seed in (0, 1):
        torch.default_generator.manual_seed(seed)
        with torch.no_grad():
            outputs.append(tensor_outputs(copy, call))
    if all(map(torch.equal, *outputs)):
        return [*left_out]
    noise = (
        "; this network draws random numbers in evaluation mode, which may be the reason: give F.dropout "
        "training=self.training, or use nn.Dropout"
    )
    return [LeftOut(one.name, one.reason + noise) for one in left_out]


def naming_tensors(
    net: nn.Module, families: Iterable[StructureFamily], left_out: Sequence[LeftOut]
) -> list[LeftOut]:
    """Name a weight that layers share, or a buffer of their length, if a network does not run without structures."""
    names: dict[int, list[str]] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    families = list(families)
    shared = {name: same for same in names.values() if len(same) > 1 for name in same}
    reasons = {
        family.name: f"{' and '.join(shared[name])} are one weight, which cannot lose channels of one layer alone"
        for family in families
        for member in family.members
        for name, _ in member.tensors
        if name in shared
    }
    sizes = {family.name: family.size for family in families}
    return [
        LeftOut(one.name, reasons.get(one.name, one.reason + _of_buffers(net, sizes[one.name])))
        if one.reason.startswith(_FAILURE)
        else one
        for one in left_out
    ]


def _of_buffers(net: nn.Module, length: int) -> str:
    """Name the buffers of the network's own modules that have the length of a family, which may be the reason."""
    names = [
        name
        for owner, module in net.named_modules()
        if not type(module).__module__.startswith("torch.nn.")
        for name, buffer in module.named_buffers(owner, recurse=False)
        if length in buffer.shape
    ]
    if not names:
        return ""
    return (
        f"; perhaps because of buffers of their length ({', '.join(names[:3])}): a buffer can be cut with them if it "
        "is float32 or float64, saved (persistent=True) and used as it is, not detached, converted or compared"
    )
