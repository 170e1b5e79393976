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
                first, *others = member.tensors
                for name, dim in [first, *(one for one in others if state[one[0]].dim() > 1)]:
                    rows = state[name].movedim(dim, 0).reshape(member.size, -1).square().sum(1)
                    zeros = rows.new_zeros(family.size)
                    own = member.structures.to(rows.device)
                    squares.append(zeros.index_add_(0, own, rows[member.positions]))
        norms[family.name] = sum(squares[1:], squares[0]).sqrt()
    return norms
