"""From pruned weights to pruned structures: a structure without weights can be cut out of the network."""

from __future__ import annotations

__all__ = ["empty_structures"]

import torch
from torch import Tensor

from bmrs_pyro.network import Member, NoisyNetwork
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.untouched import modes_kept, tensor_outputs
from bmrs_pyro.reduction import KeepMask


@torch.no_grad()
def empty_structures(network: NoisyNetwork) -> KeepMask:
    """Keep the structures that still matter: those with nonzero incoming and nonzero outgoing weights.

    No layer reads a structure without outgoing weights. A structure without incoming weights and bias is constantly
    activation(0), which is 0 for ReLU, tanh, swish and GELU. A random input checks this: if the output would change,
    only structures without outgoing weights are removed. A removed structure takes weights of its neighbours along, so
    the search repeats until no structure is empty. Every family keeps at least one structure. The network runs in
    evaluation mode; its modules' modes are restored.

    Args:
        network: a network with some weights 0, such as ``NoisyNetwork(mean_network(model, guide), x)``.

    Returns:
        the mask to hand to ``compact(network, keep)``.

    Raises:
        TypeError: the network is no NoisyNetwork.
    """
    if not isinstance(network, NoisyNetwork):
        raise TypeError(
            f"network is a {type(network).__name__}; give NoisyNetwork(mean_network(model, guide), x), with inputs x"
        )
    like = next(network.parameters())
    device, dtype = like.device, like.dtype
    example = Call.of(network.net, network.example_inputs)
    call = example.map(lambda x: (torch.randn_like(x) if x.is_floating_point() else x).to(device))
    with modes_kept(network):
        network.eval()
        expected = tensor_outputs(network.net, call)
        for roles in (("produce", "consume"), ("consume",)):
            keep = _alive(network, roles)
            with network.gates.open({name: mask.to(device, dtype) for name, mask in keep.items()}):
                outputs = tensor_outputs(network.net, call)
            if all(map(_close, outputs, expected)):
                break
    return KeepMask(keep)


def _close(output: Tensor, expected: Tensor) -> bool:
    return torch.allclose(output, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def _alive(network: NoisyNetwork, roles: tuple[str, ...]) -> dict[str, Tensor]:
    # on the CPU, where the members' indices are
    tensors = {name: value.to("cpu", copy=True) for name, value in network.net.state_dict().items()}
    keep = {family.name: torch.ones(family.size, dtype=torch.bool) for family in network.structures}
    while True:
        before = sum(int(mask.sum()) for mask in keep.values())
        for family in network.structures:
            for role in roles:
                members = [
                    member for member in family.members if member.role.replace("recur", "consume") == role
                ]
                used = torch.zeros(family.size, dtype=torch.bool)
                for member in members:
                    used |= _used(member, tensors, family.size)
                keep[family.name] &= used
            if not keep[family.name].any():
                keep[family.name][0] = True
            for member in family.members:
                _erase_(member, tensors, keep[family.name])
        if before == sum(int(mask.sum()) for mask in keep.values()):
            return keep


def _used(member: Member, tensors: dict[str, Tensor], size: int) -> Tensor:
    """Mask ``(size,)`` of the structures of a family that have a nonzero weight in a layer."""
    used = torch.zeros(size, dtype=torch.bool)
    for name, dim in member.tensors:
        nonzero = tensors[name].movedim(dim, 0).reshape(member.size, -1).ne(0).any(1)
        used[member.structures[nonzero[member.positions]]] = True
    return used


def _erase_(member: Member, tensors: dict[str, Tensor], keep: Tensor) -> None:
    gone = member.positions[~keep[member.structures]]
    for name, dim in member.tensors:
        tensors[name].index_fill_(dim, gone, 0.0)
