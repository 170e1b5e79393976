"""Why the structures of a family cannot be removed, in words."""

from __future__ import annotations

__all__ = ["CHANGED", "failure", "naming_tensors", "not_differentiable", "unmoved"]

from collections.abc import Iterable, Sequence

from torch import nn

from bmrs_pyro.network.structures import LeftOut, StructureFamily

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


def naming_tensors(
    net: nn.Module, families: Iterable[StructureFamily], left_out: Sequence[LeftOut]
) -> list[LeftOut]:
    """Name a weight that layers share, or a buffer that is not saved, where that is why the network does not run."""
    names: dict[int, list[str]] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    state = net.state_dict().keys()
    unsaved = {name: buffer.shape for name, buffer in net.named_buffers() if name not in state}
    families = list(families)
    reasons = {
        family.name: f"{name!r} has their length, and is a buffer that is not saved (persistent=False): register it "
        "with persistent=True, so that it can be cut with them"
        for family in families
        for name, shape in unsaved.items()
        if family.size in shape
    }
    shared = {name: same for same in names.values() if len(same) > 1 for name in same}
    reasons |= {
        family.name: f"{' and '.join(shared[name])} are one weight, which cannot lose channels of one layer alone"
        for family in families
        for member in family.members
        for name, _ in member.tensors
        if name in shared
    }
    return [
        LeftOut(one.name, reasons[one.name])
        if one.name in reasons and one.reason.startswith(_FAILURE)
        else one
        for one in left_out
    ]
