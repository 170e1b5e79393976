"""Norms of the weights that produce each structure."""

from __future__ import annotations

__all__ = ["producer_norms"]

import torch
from torch import Tensor

from bmrs_pyro.network.noisy import NoisyNetwork


@torch.no_grad()
def producer_norms(network: NoisyNetwork) -> dict[str, Tensor]:
    """Return the L2 norm ``(C,)`` of the weights that produce each structure, without biases, by family.

    n_c = (Σ_layers Σ_rows of c ‖W_row‖²)^½ over all producers of structure c, such as all layers that add to a
    residual stream.
    """
    state = network.net.state_dict()
    norms = {}
    for family in network.structures:
        squares = []
        for member in family.members:
            if member.role == "produce":
                name, dim = member.tensors[0]
                rows = state[name].movedim(dim, 0).reshape(member.size, -1).square().sum(1)[member.positions]
                zeros = rows.new_zeros(family.size)
                squares.append(zeros.index_add_(0, member.structures.to(rows.device), rows))
        norms[family.name] = sum(squares[1:], squares[0]).sqrt()
    return norms
